package s3blob

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/faultproxy"
	"github.com/n8keep/n8keep/internal/s3test"
)

// documents are the JSON documents of a policy text, by the first line above each.
func documents(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for part := range strings.SplitSeq("\n"+text, "\n\n# ") {
		title, _, _ := strings.Cut(strings.TrimPrefix(part, "\n# "), "\n")
		var lines []string
		for line := range strings.Lines(part) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(part, line) {
				lines = append(lines, line)
			}
		}
		body := strings.Join(lines, "")
		body = body[strings.Index(body, "{"):]
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatalf("%s: %v\n%s", title, err, body)
		}
		all[title] = doc
	}
	return all
}

// grant gives an identity what Policy prints for the role, and nothing else.
func grant(t *testing.T, b *s3test.Bucket, i s3test.Identity, u *url.URL, role blob.Role) {
	t.Helper()
	cfg, err := Parse(u, i.Env)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Policy(cfg, role)
	if err != nil {
		t.Fatal(err)
	}
	granted := 0
	for title, doc := range documents(t, text) {
		if !strings.HasPrefix(title, "policy of the identity") {
			continue
		}
		for _, s := range doc["Statement"].([]any) {
			statement := maps.Clone(s.(map[string]any))
			delete(statement, "Sid")
			b.Statement(t, i, statement)
			granted++
		}
	}
	if granted == 0 {
		t.Fatalf("the policy grants nothing:\n%s", text)
	}
}

func locked(b *s3test.Bucket, more ...string) *url.URL {
	return b.URL("n8n", append([]string{"lock", "compliance", "retain", "1h"}, more...)...)
}

func TestPutOnlyIdentityOnlyPuts(t *testing.T) {
	server := s3test.New(t)
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Locked} {
		b := server.Bucket(t, kind)
		proxy := faultproxy.New(t, server.Addr)
		u := b.URL("n8n", "endpoint", proxy.URL())
		if kind == s3test.Locked {
			u = locked(b, "endpoint", proxy.URL())
		}
		grant(t, b, server.Writer, u, blob.Writer)
		s := open(t, u, server.Writer)
		put(t, s, "small", "content")
		content := make([]byte, 20<<20)
		rand.NewChaCha8([32]byte{}).Read(content)
		if _, err := s.Put(t.Context(), "large", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), "small", strings.NewReader("other")); !errors.Is(err, blob.ErrExists) {
			t.Errorf("second put: %v, want ErrExists", err)
		}
		if _, err := s.Put(t.Context(), "large", bytes.NewReader(content)); !errors.Is(err, blob.ErrExists) {
			t.Errorf("second put in parts: %v, want ErrExists", err)
		}
		seen := 0
		for _, r := range proxy.Requests() {
			seen++
			q, _ := url.ParseQuery(r.Query)
			abort := r.Method == "DELETE" && q.Has("uploadId")
			upload := r.Method == "POST" && (q.Has("uploads") || q.Has("uploadId"))
			if r.Method != "PUT" && !upload && !abort {
				t.Errorf("a put asked %s", r)
			}
		}
		if seen < 8 {
			t.Errorf("only %d requests went through the proxy", seen)
		}

		// And the identity could not do more if it wanted to.
		raw := server.Client(server.Writer)
		key := aws.String("n8n/small")
		_, getErr := raw.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.Name, Key: key})
		_, headErr := raw.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.Name, Key: key})
		_, listErr := raw.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &b.Name})
		_, versionsErr := raw.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &b.Name})
		_, deleteErr := raw.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.Name, Key: key})
		_, elsewhereErr := raw.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: aws.String("elsewhere"), Body: strings.NewReader("")})
		for what, err := range map[string]error{"get": getErr, "head": headErr, "list": listErr, "list versions": versionsErr, "delete": deleteErr, "put elsewhere": elsewhereErr} {
			if !refused(err) {
				t.Errorf("%s by the writer: %v, want a refusal", what, err)
			}
		}
		reader := open(t, b.URL("n8n"), server.Root)
		if got := blobtest.ReadAll(t, reader, "large"); !bytes.Equal(got, content) {
			t.Error("the large object differs")
		}
	}
}

func TestLockHoldsAgainstAThief(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Locked)
	grant(t, b, server.Restorer, locked(b), blob.Restorer)
	// What a thief of a writer that was given too much can do.
	b.Allow(t, server.Writer, "s3:PutObject", "s3:PutObjectRetention", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:AbortMultipartUpload")
	writer := open(t, locked(b), server.Writer)
	before := time.Now()
	put(t, writer, "20260801.age", "the archive")
	put(t, writer, "20260801.json", "its sidecar")

	root, thief := server.Client(server.Root), server.Client(server.Writer)
	key := aws.String("n8n/20260801.age")
	list, err := root.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &b.Name, Prefix: key})
	if err != nil || len(list.Versions) != 1 {
		t.Fatalf("%d versions, %v", len(list.Versions), err)
	}
	first := list.Versions[0].VersionId
	for who, c := range map[string]*s3.Client{"root": root, "thief": thief} {
		if _, err := c.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.Name, Key: key, VersionId: first, BypassGovernanceRetention: aws.Bool(true)}); err == nil {
			t.Errorf("%s deleted the version", who)
		}
		soon := time.Now().Add(time.Minute).UTC()
		for _, mode := range []types.ObjectLockRetentionMode{types.ObjectLockRetentionModeCompliance, types.ObjectLockRetentionModeGovernance} {
			if _, err := c.PutObjectRetention(t.Context(), &s3.PutObjectRetentionInput{Bucket: &b.Name, Key: key, VersionId: first, BypassGovernanceRetention: aws.Bool(true),
				Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: &soon}}); err == nil {
				t.Errorf("%s shortened the retention to %s", who, mode)
			}
		}
	}
	if _, err := writer.Put(t.Context(), "20260801.age", strings.NewReader("forged")); !errors.Is(err, blob.ErrExists) {
		t.Errorf("a second put: %v, want ErrExists", err)
	}
	if _, err := thief.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: key, Body: strings.NewReader("forged")}); err != nil {
		t.Fatalf("forging: %v", err)
	}
	for _, k := range []string{"n8n/20260801.age", "n8n/20260801.json"} {
		if _, err := thief.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.Name, Key: &k}); err != nil {
			t.Fatalf("hiding: %v", err)
		}
	}
	if _, err := root.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.Name, Key: key}); !missing(err) {
		t.Fatalf("the bucket still shows the object: %v", err)
	}

	restorer := open(t, locked(b), server.Restorer)
	if got := blobtest.Names(t, restorer, ""); !slices.Equal(got, []string{"20260801.age", "20260801.json"}) {
		t.Errorf("listed: %q", got)
	}
	for _, remembered := range []bool{true, false} {
		if !remembered {
			restorer = open(t, locked(b), server.Restorer)
		}
		if got := blobtest.ReadAll(t, restorer, "20260801.age"); string(got) != "the archive" {
			t.Errorf("read %q", got)
		}
		if got := blobtest.ReadAll(t, restorer, "20260801.json"); string(got) != "its sidecar" {
			t.Errorf("read %q", got)
		}
	}
	for name, want := range map[string]string{"20260801.age": "overwritten and deleted since ", "20260801.json": "deleted since "} {
		info, err := restorer.Stat(t.Context(), name)
		if err != nil || !strings.HasPrefix(info.Altered, want) || !strings.Contains(info.Altered, "the version that was put first is read") {
			t.Errorf("%s: %q, %v; want %q", name, info.Altered, err, want)
		}
		if ahead := info.LockedUntil.Sub(before); ahead < 59*time.Minute || ahead > 61*time.Minute {
			t.Errorf("%s is locked until %v, want an hour", name, info.LockedUntil)
		}
	}
	pruner := open(t, locked(b), server.Root)
	if err := pruner.Delete(t.Context(), "20260801.age"); !errors.Is(err, blob.ErrLocked) || !strings.Contains(err.Error(), "object is locked until 20") {
		t.Errorf("Delete: %v, want ErrLocked", err)
	}
	if info, err := pruner.Stat(t.Context(), "20260801.age"); err != nil || !strings.HasPrefix(info.Altered, "overwritten") {
		t.Errorf("a refused Delete destroyed evidence: %+v, %v", info, err)
	}
}

func TestGovernanceAndLegalHold(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Locked)
	s := open(t, b.URL("", "lock", "governance", "retain", "1h"), server.Root)
	put(t, s, "a", "x")
	// Root may bypass governance, but we never ask for that.
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, blob.ErrLocked) {
		t.Errorf("Delete: %v, want ErrLocked", err)
	}
	free := open(t, b.URL(""), server.Root)
	put(t, free, "b", "x")
	if _, err := server.Client(server.Root).PutObjectLegalHold(t.Context(), &s3.PutObjectLegalHoldInput{Bucket: &b.Name, Key: aws.String("b"), LegalHold: &types.ObjectLockLegalHold{Status: types.ObjectLockLegalHoldStatusOn}}); err != nil {
		t.Fatal(err)
	}
	if err := free.Delete(t.Context(), "b"); !errors.Is(err, blob.ErrLocked) || !strings.Contains(err.Error(), "legal hold") {
		t.Errorf("Delete: %v, want a legal hold", err)
	}
}

func TestPrunerDeletesAllVersions(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Locked)
	u := b.URL("n8n")
	grant(t, b, server.Pruner, u, blob.Pruner)
	put(t, open(t, u, server.Root), "a", "first")
	root := server.Client(server.Root)
	for range 3 {
		if _, err := root.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: aws.String("n8n/a"), Body: strings.NewReader("forged")}); err != nil {
			t.Fatal(err)
		}
		if _, err := root.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.Name, Key: aws.String("n8n/a")}); err != nil {
			t.Fatal(err)
		}
	}
	pruner := open(t, u, server.Pruner)
	info, err := pruner.Stat(t.Context(), "a")
	if err != nil || !strings.HasPrefix(info.Altered, "overwritten 3 times and deleted 3 times since ") {
		t.Errorf("%q, %v", info.Altered, err)
	}
	if err := pruner.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	list, err := root.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &b.Name})
	if err != nil || len(list.Versions)+len(list.DeleteMarkers) != 0 {
		t.Errorf("%d versions and %d markers are left, %v", len(list.Versions), len(list.DeleteMarkers), err)
	}
	if _, err := pruner.Put(t.Context(), "b", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("the pruner puts: %v", err)
	}
}

func TestIdentityThatListsNoVersions(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Locked)
	b.Allow(t, server.Restorer, "s3:ListBucket", "s3:GetObject")
	put(t, open(t, b.URL("n8n"), server.Root), "a", "content")

	s := open(t, b.URL("n8n"), server.Restorer)
	if c := s.Properties().Caveat; c != "" {
		t.Errorf("a caveat before anything was asked: %q", c)
	}
	if got := blobtest.Names(t, s, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("listed %q", got)
	}
	if got := blobtest.ReadAll(t, s, "a"); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	if info, err := s.Stat(t.Context(), "a"); err != nil || info.Size != 7 {
		t.Errorf("Stat: %+v, %v", info, err)
	}
	if _, err := s.Stat(t.Context(), "b"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v, want ErrNotFound", err)
	}
	if want := "older versions of objects are not seen: this identity may not list versions (s3:ListBucketVersions)"; s.Properties().Caveat != want {
		t.Errorf("caveat %q, want %q", s.Properties().Caveat, want)
	}
	if fresh := open(t, b.URL("n8n"), server.Restorer); string(blobtest.ReadAll(t, fresh, "a")) != "content" {
		t.Error("Get without List before")
	}

	strict := open(t, locked(b), server.Restorer)
	for _, err := range strict.List(t.Context(), "") {
		wantError(t, err, "this identity may not list versions (s3:ListBucketVersions), without which a forged or hidden object under lock cannot be told from the real one",
			`"n8keep target policy --role restorer" prints what reading needs`)
	}
	if _, _, err := strict.Get(t.Context(), "a"); err == nil {
		t.Error("Get went on without versions")
	}
}

func trials(t *testing.T, s *Store) map[blob.Capability]blob.Trial {
	t.Helper()
	list, err := s.Probe(t.Context(), "n8keep-canary-x")
	if err != nil {
		t.Fatal(err)
	}
	all := map[blob.Capability]blob.Trial{}
	for i, trial := range list {
		if trial.Capability != blob.Capabilities()[i] {
			t.Errorf("trial %d is of %q", i, trial.Capability)
		}
		all[trial.Capability] = trial
	}
	return all
}

func TestProbe(t *testing.T) {
	const y, n, na = blob.Yes, blob.No, blob.NotApplicable
	server := s3test.New(t)
	for _, tc := range []struct {
		name    string
		kind    s3test.Kind
		lock    string
		role    blob.Role // "" for root
		actions []string  // instead of the role's policy
		// put, get, list, overwrite, delete, hide, shorten
		want   [7]blob.Answer
		left   bool // canaries stay
		detail map[blob.Capability]string
	}{
		{name: "writer of a plain bucket", role: blob.Writer, want: [7]blob.Answer{y, n, n, y, n, na, na}, left: true,
			detail: map[blob.Capability]string{blob.CanOverwrite: "the bucket has no versions", blob.CanDelete: `left behind: "n8keep-canary-x", until somebody deletes it`}},
		{name: "writer under compliance", kind: s3test.Locked, lock: "compliance", role: blob.Writer, want: [7]blob.Answer{y, n, n, n, n, y, n}, left: true,
			detail: map[blob.Capability]string{blob.CanDelete: `left behind: "n8keep-canary-x" and "n8keep-canary-x-locked", locked until 20`}},
		{name: "writer under governance", kind: s3test.Locked, lock: "governance", role: blob.Writer, want: [7]blob.Answer{y, n, n, n, n, y, n}, left: true},
		{name: "writer that may bypass", kind: s3test.Locked, lock: "governance", actions: []string{"s3:PutObject", "s3:PutObjectRetention", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"},
			want: [7]blob.Answer{y, n, n, n, y, y, y}, detail: map[blob.Capability]string{blob.CanShortenRetain: "by bypassing governance", blob.CanDelete: "even under lock, by bypassing governance"}},
		{name: "writer that may delete later", kind: s3test.Locked, lock: "compliance", actions: []string{"s3:PutObject", "s3:PutObjectRetention", "s3:DeleteObject", "s3:DeleteObjectVersion"},
			want: [7]blob.Answer{y, n, n, n, y, y, n}, left: true, detail: map[blob.Capability]string{blob.CanDelete: "not under lock, but afterwards"}},
		{name: "restorer", kind: s3test.Locked, lock: "compliance", role: blob.Restorer, want: [7]blob.Answer{n, y, y, n, n, n, n}},
		{name: "restorer of a plain bucket", role: blob.Restorer, want: [7]blob.Answer{n, y, y, n, n, n, na}},
		{name: "pruner", kind: s3test.Locked, lock: "compliance", role: blob.Pruner, want: [7]blob.Answer{n, y, y, n, y, y, n}},
		{name: "writer under compliance, of a plain bucket", lock: "compliance", role: blob.Writer, want: [7]blob.Answer{n, n, n, y, n, na, blob.Unknown}, left: true,
			detail: map[blob.Capability]string{blob.CanPut: "under lock it fails: InvalidRequest: Bucket is missing ObjectLockConfiguration", blob.CanShortenRetain: "nothing could be put under lock",
				blob.CanDelete: `left behind: "n8keep-canary-x", until somebody deletes it; perhaps left behind, though the put failed: "n8keep-canary-x-locked"`}},
		{name: "writer under compliance, of a versioned bucket", kind: s3test.Versioned, lock: "compliance", role: blob.Writer, want: [7]blob.Answer{n, n, n, n, n, y, blob.Unknown}, left: true,
			detail: map[blob.Capability]string{blob.CanDelete: `perhaps left behind, though the put failed: "n8keep-canary-x-locked"`}},
		{name: "root under compliance, of a plain bucket", lock: "compliance", want: [7]blob.Answer{n, y, y, y, y, na, blob.Unknown}},
		{name: "root under governance, of a versioned bucket", kind: s3test.Versioned, lock: "governance", want: [7]blob.Answer{n, y, y, n, y, y, blob.Unknown}},
		{name: "root of a plain bucket", want: [7]blob.Answer{y, y, y, y, y, na, na}},
		{name: "root of a versioned bucket", kind: s3test.Versioned, want: [7]blob.Answer{y, y, y, n, y, y, na}},
		{name: "nobody", kind: s3test.Versioned, actions: []string{"s3:GetBucketLocation"}, want: [7]blob.Answer{n, n, n, n, n, n, na}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := server.Bucket(t, tc.kind)
			u := b.URL("n8n")
			if tc.lock != "" {
				u = b.URL("n8n", "lock", tc.lock, "retain", "30d")
			}
			who := server.Root
			if tc.role != "" || tc.actions != nil {
				who = server.Writer
			}
			if tc.actions != nil {
				b.Allow(t, who, tc.actions...)
			} else if tc.role != "" {
				grant(t, b, who, u, tc.role)
			}
			put(t, open(t, b.URL("n8n"), server.Root), "archive", "real")
			all := trials(t, open(t, u, who))
			var got [7]blob.Answer
			for i, c := range blob.Capabilities() {
				got[i] = all[c].Answer
			}
			if got != tc.want {
				t.Errorf("answers %v, want %v\n%+v", got, tc.want, all)
			}
			for c, want := range tc.detail {
				if !strings.Contains(all[c].Detail, want) {
					t.Errorf("%s: %q, want %q", c, all[c].Detail, want)
				}
			}
			if left := strings.Contains(all[blob.CanDelete].Detail, "left behind"); left != tc.left {
				t.Errorf("left behind: %q, want %v", all[blob.CanDelete].Detail, tc.left)
			}
			list, err := server.Client(server.Root).ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &b.Name, Prefix: aws.String("n8n/n8keep")})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(list.Versions) + len(list.DeleteMarkers); (n > 0) != tc.left {
				t.Errorf("%d canaries are there, want left %v", n, tc.left)
			}
			if s := open(t, u, server.Root); string(blobtest.ReadAll(t, s, "archive")) != "real" {
				t.Error("the probe touched an object that is not its own")
			} else if info, err := s.Stat(t.Context(), "archive"); err != nil || info.Altered != "" {
				t.Errorf("the probe altered an object that is not its own: %q, %v", info.Altered, err)
			}
		})
	}
}

func TestProbeThatCanTryNothing(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	s := open(t, b.URL(""), s3test.Identity{Access: server.Root.Access, Secret: "wrong"})
	_, err := s.Probe(t.Context(), "canary")
	wantError(t, err, "SignatureDoesNotMatch", "the access key is wrong, or its secret, or it has expired")
	b.Name = "not-there"
	_, err = open(t, b.URL(""), server.Root).Probe(t.Context(), "canary")
	wantError(t, err, "NoSuchBucket", `make the bucket "not-there" first`)
	if _, err := s.Probe(t.Context(), "a/b"); err == nil || !strings.Contains(err.Error(), "object name") {
		t.Errorf("%v", err)
	}
}

func TestPolicyText(t *testing.T) {
	u, _ := url.Parse("s3://bucket/n8n/prod?lock=compliance&retain=30d&sse=aws:kms&kms_key=arn:aws:kms:eu-central-1:111122223333:key/1234")
	cfg, err := Parse(u, nil)
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[blob.Role][]string{
		blob.Writer: {`"s3:PutObject"`, `"s3:PutObjectRetention"`, `"s3:AbortMultipartUpload"`, `"arn:aws:s3:::bucket/n8n/prod/*"`, `"s3:BypassGovernanceRetention"`,
			`"kms:GenerateDataKey"`, `"DaysAfterInitiation": 3`, `"Prefix": "n8n/prod/"`, `"s3:if-none-match": "true"`, `"s3:object-lock-remaining-retention-days": "31"`},
		blob.Restorer: {`"s3:ListBucketVersions"`, `"s3:GetObjectVersion"`, `"s3:prefix"`, `"kms:Decrypt"`, `"s3:BypassGovernanceRetention"`},
		blob.Pruner:   {`"s3:DeleteObjectVersion"`, `"s3:ListBucketVersions"`, `"s3:BypassGovernanceRetention"`},
	} {
		text, err := Policy(cfg, role)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %s in\n%s", role, w, text)
			}
		}
		docs := documents(t, text)
		if n := map[blob.Role]int{blob.Writer: 3, blob.Restorer: 1, blob.Pruner: 1}[role]; len(docs) != n {
			t.Errorf("%s: %d documents, want %d", role, len(docs), n)
		}
		for title, doc := range docs {
			for _, s := range list(doc["Statement"]) {
				st := s.(map[string]any)
				if st["Effect"] == "Allow" && strings.Contains(fmt.Sprint(st["Action"]), "Bypass") {
					t.Errorf("%s allows bypassing: %v", title, st)
				}
			}
		}
	}
	if _, err := Policy(cfg, "king"); err == nil || !strings.Contains(err.Error(), `no role is called "king"`) {
		t.Errorf("%v", err)
	}
	china := Config{Bucket: "b", Region: "cn-north-1"}
	if text, _ := Policy(china, blob.Restorer); !strings.Contains(text, "arn:aws-cn:s3:::b/*") {
		t.Errorf("partition:\n%s", text)
	}
}

func list(v any) []any { l, _ := v.([]any); return l }
