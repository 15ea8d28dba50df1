package backup_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blob/s3blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/retention"
	"github.com/n8keep/n8keep/internal/s3test"
)

func openBucket(t testing.TB, b *s3test.Bucket, who s3test.Identity, query ...string) blob.Store {
	t.Helper()
	cfg, err := s3blob.Parse(b.URL("n8n", query...), who.Env)
	if err != nil {
		t.Fatal(err)
	}
	store, err := s3blob.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// TestPruneOfABucket on a real server: the writer may put and nothing else, the
// pruner what its policy gives it. What is locked and what the writer meddled with
// stays; what goes is gone with all its versions.
func TestPruneOfABucket(t *testing.T) {
	server := s3test.New(t)
	bucket := server.Bucket(t, s3test.Locked)
	bucket.Allow(t, server.Writer, "s3:PutObject", "s3:PutObjectRetention", "s3:AbortMultipartUpload", "s3:DeleteObject")
	bucket.Allow(t, server.Pruner, "s3:ListBucket", "s3:ListBucketVersions", "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold", "s3:DeleteObject", "s3:DeleteObjectVersion")
	s := newShelf(t)
	s.clock = time.Now().UTC().Truncate(time.Second)
	add := func(age time.Duration, query ...string) archive.ID {
		s.store = openBucket(t, bucket, server.Writer, query...)
		return s.addOf(s.clock.Add(-age), s.clock, s.key)
	}
	lock := []string{"lock", "compliance", "retain", "2d"}
	older, locked := add(5*time.Hour), add(4*time.Hour, lock...)
	altered, hidden := add(3*time.Hour), add(2*time.Hour, lock...)
	newest := add(time.Minute)

	// The writer's host was taken over.
	writer := server.Client(server.Writer)
	key := func(name string) *string { k := "n8n/" + name; return &k }
	if _, err := writer.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket.Name, Key: key(altered.ArchiveName()), Body: bytes.NewReader([]byte("forged"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket.Name, Key: key(hidden.SidecarName())}); err != nil {
		t.Fatal(err)
	}

	s.store = openBucket(t, bucket, server.Pruner)
	plan := s.plan(retention.Policy{Last: 1})
	said := map[archive.ID]string{}
	for _, d := range plan.Decisions {
		said[archive.ID(d.ID)] = d.String()
	}
	for id, want := range map[archive.ID]string{older: "removed: not among last 1", locked: "kept: locked until ", altered: "kept: altered: ", hidden: "kept: altered: ", newest: "kept: last 1, newest good"} {
		if !strings.HasPrefix(said[id], want) {
			t.Errorf("%s: %q, want %q", id, said[id], want)
		}
	}
	if got := codes(plan.Findings)[backup.FoundAltered]; got != 2 {
		t.Errorf("%v", plan.Findings)
	}
	res, err := plan.Apply(t.Context())
	if err != nil || res.Removed != 1 || cmp.Diff([]string{string(newest)}, res.Proved) != "" {
		t.Fatalf("%+v %v", res, err)
	}
	if diff := cmp.Diff(objects(locked, altered, hidden, newest), blobtest.Names(t, s.store, "")); diff != "" {
		t.Error(diff)
	}
	versions, err := server.Client(server.Root).ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &bucket.Name, Prefix: key(string(older))})
	if err != nil || len(versions.Versions)+len(versions.DeleteMarkers) != 0 {
		t.Errorf("left of what went: %+v %v", versions, err)
	}
	for _, id := range []archive.ID{locked, altered, hidden, newest} {
		if _, err := backup.Verify(t.Context(), backup.VerifyConfig{Store: s.store, ID: id, Trust: s.trust}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestPrunerThatMayNotListVersions is told that it sees no tampering.
func TestPrunerThatMayNotListVersions(t *testing.T) {
	server := s3test.New(t)
	bucket := server.Bucket(t, s3test.Plain)
	bucket.Allow(t, server.Pruner, "s3:ListBucket", "s3:GetObject", "s3:DeleteObject")
	s := newShelf(t)
	s.clock = time.Now()
	s.store = openBucket(t, bucket, server.Root)
	s.addOf(s.clock, s.clock, s.key)
	s.store = openBucket(t, bucket, server.Pruner)
	if plan := s.plan(retention.Policy{Last: 1}); len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "s3:ListBucketVersions") {
		t.Errorf("%q", plan.Warnings)
	}
}

// BenchmarkTenThousandInABucket is the same as BenchmarkTenThousand on a real S3
// server with versions.
func BenchmarkTenThousandInABucket(b *testing.B) {
	const archives = 10_000
	server := s3test.New(b)
	bucket := server.Bucket(b, s3test.Versioned)
	s := newShelf(b)
	s.clock = time.Now()
	put := openBucket(b, bucket, server.Root)
	var g errgroup.Group
	g.SetLimit(16)
	for i := range archives {
		id, content, sidecar := s.sign(s.clock.Add(-time.Duration(i)*time.Hour), s.key)
		g.Go(func() error {
			_, err := put.Put(b.Context(), id.ArchiveName(), bytes.NewReader(content))
			if err == nil {
				_, err = put.Put(b.Context(), id.SidecarName(), bytes.NewReader(sidecar))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	list := func(b *testing.B, cache backup.SidecarCache) {
		// Opened anew, as each run of the program does.
		cfg := backup.ListConfig{Store: openBucket(b, bucket, server.Root), Trust: s.trust, Cache: cache}
		if all, err := cfg.List(b.Context()); err != nil || len(all) != archives {
			b.Fatalf("%d, %v", len(all), err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			list(b, nil)
		}
	})
	list(b, s.state)
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			list(b, s.state)
		}
	})
	for _, p := range []retention.Policy{{Daily: 30, Weekly: 14}, {Last: 1}} {
		b.Run(fmt.Sprintf("plan/%s", p), func(b *testing.B) {
			for b.Loop() {
				s.store = openBucket(b, bucket, server.Root)
				s.plan(p)
			}
		})
	}
}

// TestArchiveThatCouldNotBeLocked: some services store the object before they find
// that they cannot lock it. What is left counts as no backup.
func TestArchiveThatCouldNotBeLocked(t *testing.T) {
	server := s3test.New(t)
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned} {
		bucket := server.Bucket(t, kind)
		h := newHost(t, "2.0.3-sqlite", fixtureKey(t, "2.0.3-sqlite"))
		h.cfg.Stores = []blob.Store{openBucket(t, bucket, server.Root, "lock", "compliance", "retain", "1d")}
		_, err := backup.Create(t.Context(), h.cfg)
		if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "ObjectLockConfiguration") || !strings.Contains(problem.HintOf(err), "the bucket was made without object lock") {
			t.Errorf("%v, hint %q", err, problem.HintOf(err))
		}
		h.clean()
		plain := openBucket(t, bucket, server.Root)
		left := blobtest.Names(t, plain, "")
		list, err := backup.List(t.Context(), plain, h.trust)
		if err != nil || len(list) != len(left) || len(left) > 1 || kind == s3test.Plain && len(left) == 0 {
			t.Errorf("left are %q, listed %+v, %v", left, list, err)
		}
		for _, l := range list {
			if l.State != backup.StateIncomplete || l.Problem != "no sidecar: the backup did not finish" {
				t.Errorf("listed as %+v", l)
			}
		}
		if id, err := backup.Find(t.Context(), plain, h.trust, "latest", ""); err == nil {
			t.Errorf("the latest backup is %q", id)
		}
	}
}

type elsewhere struct {
	blob.Store
	location string
}

func (e elsewhere) Properties() blob.Properties { return blob.Properties{Location: e.location} }

// TestHintOfATargetThatFails: disks and mounts are those of a folder.
func TestHintOfATargetThatFails(t *testing.T) {
	for location, want := range map[string]string{
		"/mnt/backup":               "check the target /mnt/backup: free space, permissions, mount",
		"s3://bucket/n8n":           `check the address s3://bucket/n8n, the network and the credentials, and what they may do, with "n8keep target check URL"`,
		"sftp://me@host:2222/~/n8n": `check the address sftp://me@host:2222/~/n8n, the network and the credentials, and what they may do, with "n8keep target check URL"`,
	} {
		store := elsewhere{blobtest.NewFaulty(blobtest.NewMemory(nil), blobtest.Rule{Op: blobtest.List, Fault: blobtest.NotStored}), location}
		_, err := backup.List(t.Context(), store, backup.Trust{})
		if problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) != want {
			t.Errorf("%v, hint %q, want %q", err, problem.HintOf(err), want)
		}
	}
	// What the store itself says is better.
	server := s3test.New(t)
	bucket := server.Bucket(t, s3test.Plain)
	bucket.Name = "not-there"
	_, err := backup.List(t.Context(), openBucket(t, bucket, server.Root), backup.Trust{})
	if !strings.Contains(problem.HintOf(err), `make the bucket "not-there" first`) {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
}
