package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/s3test"
)

// TestTargetCheckOfAPlainBucket: what the bucket lacks is said to be the bucket's,
// and a put that fails under lock is none.
func TestTargetCheckOfAPlainBucket(t *testing.T) {
	const versions, lock = "turn versions on for the bucket: no policy keeps who may put from overwriting without them",
		"the bucket has no object lock: turn versions and object lock on for it, or leave lock and retain out of the URL"
	server := s3test.New(t)
	for name, tc := range map[string]struct {
		who   s3test.Identity
		query []string
		text  string
		hints []string // every one, by its beginning
	}{
		"without lock": {server.Writer, nil, "this identity can do more than a writer should: overwrite", []string{versions}},
		"under lock": {server.Writer, []string{"lock", "compliance", "retain", "1d"}, "this identity can do more than a writer should: overwrite; and it cannot do what a writer must: put",
			[]string{lock, strings.Replace(versions, "versions on", "versions and object lock on", 1)}},
		"root": {server.Root, nil, "this identity can do more than a writer should: get, list, overwrite, delete", []string{versions, "the least it needs is printed by"}},
	} {
		bucket := server.Bucket(t, s3test.Plain)
		bucket.Allow(t, server.Writer, "s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload")
		dir := t.TempDir()
		a, err := Open(Options{StateDir: dir, Env: func(name string) (string, bool) {
			if name == "HOME" {
				return dir, true
			}
			return tc.who.Env(name)
		}})
		if err != nil {
			t.Fatal(err)
		}
		doc, err := a.TargetCheck(t.Context(), bucket.URL("n8n", tc.query...).String(), "")
		if doc == nil || err == nil || err.Error() != tc.text || problem.KindOf(err) != problem.CheckFailed || doc.Fits {
			t.Errorf("%s: %v, want %q", name, err, tc.text)
			continue
		}
		got := strings.Split(problem.HintOf(err), "\n")
		if len(got) != len(tc.hints) {
			t.Errorf("%s: hints %q, want %q", name, got, tc.hints)
			continue
		}
		for i, want := range tc.hints {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: hints %q, want %q", name, got, tc.hints)
			}
		}
	}
}

func wrong(doc *api.TargetCheck) string {
	var names []string
	for _, t := range doc.Trials {
		if t.Wrong {
			names = append(names, t.Capability)
		}
	}
	return strings.Join(names, ", ")
}

// TestTargetCheckOfRoles: on a real bucket under lock, an identity fits the role
// that it was made for, and no other.
func TestTargetCheckOfRoles(t *testing.T) {
	server := s3test.New(t)
	bucket := server.Bucket(t, s3test.Locked)
	bucket.Allow(t, server.Writer, "s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload")
	reading := []string{"s3:ListBucket", "s3:ListBucketVersions", "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"}
	bucket.Allow(t, server.Restorer, reading...)
	bucket.Allow(t, server.Pruner, append(reading, "s3:DeleteObject", "s3:DeleteObjectVersion")...)
	target := bucket.URL("n8n", "lock", "compliance", "retain", "30d").String()
	for _, tc := range []struct {
		who   s3test.Identity
		role  string
		wrong string // "" fits
		text  string
	}{
		{server.Writer, "", "", ""},
		{server.Restorer, "restorer", "", ""},
		{server.Pruner, "pruner", "", ""},
		{server.Writer, "restorer", "put, get, list, hide", "this identity can do more than a restorer should: put, hide; and it cannot do what a restorer must: get, list"},
		{server.Pruner, "writer", "put, get, list, delete", "this identity can do more than a writer should: get, list, delete; and it cannot do what a writer must: put"},
		{server.Root, "writer", "get, list, delete", "this identity can do more than a writer should: get, list, delete"},
		{server.Nobody, "restorer", "get, list", "this identity cannot do what a restorer must: get, list"},
	} {
		dir := t.TempDir()
		a, err := Open(Options{StateDir: dir, Env: func(name string) (string, bool) {
			if name == "HOME" {
				return dir, true
			}
			return tc.who.Env(name)
		}})
		if err != nil {
			t.Fatal(err)
		}
		doc, err := a.TargetCheck(t.Context(), target, tc.role)
		if doc == nil {
			t.Fatalf("%s as %q: %v", tc.who.Access, tc.role, err)
		}
		if got := wrong(doc); got != tc.wrong || doc.Fits != (tc.wrong == "") {
			t.Errorf("%s as %q: wrong are %q, want %q\n%+v", tc.who.Access, tc.role, got, tc.wrong, doc.Trials)
		}
		if tc.text == "" && err != nil || tc.text != "" && (err == nil || err.Error() != tc.text || problem.KindOf(err) != problem.CheckFailed || !strings.Contains(problem.HintOf(err), "n8keep target policy")) {
			t.Errorf("%s as %q: %v (%s), want %q", tc.who.Access, tc.role, err, problem.HintOf(err), tc.text)
		}
		log, _ := filepath.Glob(filepath.Join(dir, "audit*"))
		if len(log) == 0 {
			log, _ = filepath.Glob(filepath.Join(dir, "*", "*.jsonl"))
		}
		if len(log) == 0 {
			t.Fatalf("no audit log in %s", dir)
		}
		b, err := os.ReadFile(log[0])
		if err != nil || !strings.Contains(string(b), `"target check"`) || strings.Contains(string(b), tc.who.Secret) {
			t.Errorf("audit log: %s, %v", b, err)
		}
	}
}
