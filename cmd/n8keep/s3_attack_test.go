package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/s3test"
)

// TestOwnedWriter is the story of a stolen n8n host: the identity on it may put,
// and nothing else, into a bucket with a compliance lock. Whatever the thief does
// with it, yesterday's archive is listed, verified and restored, and what was done
// to it is reported.
func TestOwnedWriter(t *testing.T) {
	server := s3test.New(t)
	bucket := server.Bucket(t, s3test.Locked)
	bucket.Allow(t, server.Writer, "s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload")
	bucket.Allow(t, server.Restorer, "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:ListBucket", "s3:ListBucketVersions")

	l := newLab(t, buildWithFailpoints(t), "2.41.1-sqlite")
	as := func(i s3test.Identity) {
		l.env = append(l.env[:3:3], "AWS_ACCESS_KEY_ID="+i.Access, "AWS_SECRET_ACCESS_KEY="+i.Secret)
	}
	l.target = bucket.URL("n8n", "lock", "compliance", "retain", "1d").String()

	as(server.Writer)
	var made api.Backup
	l.must(&made, l.create()...)
	if r := l.run("", "backup", "list", "--target", l.target, "--json"); r.code != 14 {
		t.Errorf("the writer's identity lists the bucket: exit %d\n%s", r.code, r.stdout)
	}

	// The thief forges, and hides what he cannot delete: even with more rights than the writer has.
	bucket.Allow(t, server.Writer, "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:ListBucketVersions", "s3:GetObjectRetention")
	thief := server.Client(server.Writer)
	for _, suffix := range []string{".tar.zst.age", ".json"} {
		key := aws.String("n8n/" + made.ID + suffix)
		if _, err := thief.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket.Name, Key: key, Body: strings.NewReader("forged")}); err != nil {
			t.Fatalf("an overwrite only makes a newer version, and is allowed: %v", err)
		}
		if _, err := thief.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket.Name, Key: key}); err != nil {
			t.Fatalf("a plain delete only hides, and is allowed: %v", err)
		}
		versions, err := thief.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &bucket.Name, Prefix: key})
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for _, v := range versions.Versions {
			if *v.Size == int64(len("forged")) {
				continue
			}
			if _, err := thief.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket.Name, Key: key, VersionId: v.VersionId}); err == nil {
				t.Error("a version under compliance lock was deleted")
			}
			refused++
		}
		if refused != 1 {
			t.Errorf("%d versions of ours, want 1", refused)
		}
	}

	as(server.Restorer)
	var list []api.Archive
	l.must(&list, "backup", "list", "--target", l.target, "--json")
	if len(list) != 1 || list[0].ID != made.ID || list[0].State != "good" || !list[0].Trusted || len(list[0].Copies) != 1 || len(list[0].Copies[0].Findings) != 1 || list[0].Copies[0].Findings[0].Code != "altered" {
		t.Errorf("listed after the forgery: %+v", list)
	}
	if r := l.must(nil, "backup", "list", "--target", l.target); !strings.Contains(r.stdout, "overwritten") && !strings.Contains(r.stdout, "deleted") {
		t.Errorf("the tampering is not reported:\n%s", r.stdout)
	}
	objects := []string{made.ID + ".json", made.ID + ".tar.zst.age"}
	// altered wants both objects named, in findings and in warnings.
	altered := func(what string, findings []api.Finding, warnings []string) {
		t.Helper()
		for _, name := range objects {
			if !slices.ContainsFunc(findings, func(f api.Finding) bool {
				return f.Code == "altered" && f.Place == made.ID && strings.Contains(f.Detail, name)
			}) {
				t.Errorf("%s: no finding about %s: %+v", what, name, findings)
			}
			if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, name) }) {
				t.Errorf("%s: no warning about %s: %q", what, name, warnings)
			}
		}
	}
	keys := []string{"--target", l.target, "-i", l.identity, "--key-file", l.key, "--json"}
	for _, level := range []string{"quick", "full", "secrets"} {
		r := l.run("", append([]string{"backup", "verify", made.ID, "--level", level}, keys...)...)
		var doc api.Verified
		if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || r.code != 4 || doc.Error == nil || doc.Error.Kind != "check_failed" || !strings.Contains(doc.Error.Message, "is undamaged, but the sidecar") {
			t.Errorf("verify at level %s: exit %d, %v\n%s", level, r.code, err, r.stdout)
		}
		altered("verify "+level, doc.Findings, doc.Warnings)
	}
	r := l.run("", append([]string{"backup", "verify", "--sample", "1", "--level", "secrets"}, keys...)...)
	var sampled api.Sampled
	if err := json.Unmarshal([]byte(r.stdout), &sampled); err != nil || r.code != 4 || sampled.Failed != 1 || sampled.Archives[0].Outcome != "altered" || !strings.Contains(sampled.Archives[0].Problem, objects[1]) {
		t.Errorf("sample: exit %d, %v\n%s", r.code, err, r.stdout)
	}
	for _, more := range [][]string{nil, {"-i", l.identity}} {
		var shown api.Shown
		l.must(&shown, append([]string{"backup", "show", made.ID, "--target", l.target, "--json"}, more...)...)
		altered("show", shown.Findings, shown.Warnings)
	}
	to := filepath.Join(l.dir, "again")
	for _, more := range [][]string{{"--dry-run"}, nil} {
		var restored api.Restore
		l.must(&restored, append(append([]string{"restore", "latest", "--to", to}, keys...), more...)...)
		altered("restore", restored.Findings, restored.Warnings)
	}
	var seen api.Census
	l.must(&seen, "census", "--n8n-dir", to, "--json")
	if seen.Totals.Failed != 0 || seen.Totals.Opened != made.SecretsOpened {
		t.Errorf("restored: %+v", seen.Totals)
	}
}
