package backup_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func (s *shelf) copyTo(to blob.Store, id archive.ID) (backup.CopyResult, error) {
	return backup.Copy(s.t.Context(), backup.CopyConfig{From: s.store, To: to, Trust: s.trust}, id)
}

// same checks that to holds what the shelf does under the id.
func (s *shelf) same(to blob.Store, id archive.ID) {
	s.t.Helper()
	for _, name := range objects(id) {
		if !bytes.Equal(blobtest.ReadAll(s.t, to, name), blobtest.ReadAll(s.t, s.memory, name)) {
			s.t.Errorf("%s differs", name)
		}
	}
}

func TestCopy(t *testing.T) {
	s := newShelf(t)
	id, to := s.add(day), blobtest.NewMemory(nil)
	res, err := s.copyTo(to, id)
	if err != nil || res.There || res.Sidecar.ID != id {
		t.Fatalf("%+v %v", res, err)
	}
	s.same(to, id)
	counted := blobtest.NewFaulty(to)
	if res, err = s.copyTo(counted, id); err != nil || !res.There {
		t.Errorf("%+v %v", res, err)
	}
	for _, c := range counted.Calls() {
		if c.Op == blobtest.Put {
			t.Errorf("an equal one is put again: %v", c)
		}
	}
}

// TestCopyTakesUpWhatAnInterruptedOneLeft at every fault of either side: the second
// copy ends it, and in between nothing looks whole that is not.
func TestCopyTakesUpWhatAnInterruptedOneLeft(t *testing.T) {
	cases := 0
	for _, fault := range blobtest.Faults() {
		for _, rule := range []blobtest.Rule{{Op: blobtest.Put, Name: "*.age"}, {Op: blobtest.Put, Name: "*.json"}, {Op: blobtest.Get, Name: "*.age"}, {Op: blobtest.Get, Name: "*.json"}} {
			if fault == blobtest.Slow || fault == blobtest.DamagedRead && rule.Op == blobtest.Put {
				continue
			}
			cases++
			t.Run(fmt.Sprintf("%s %s %s", rule.Op, rule.Name, fault), func(t *testing.T) {
				s := newShelf(t)
				id, to := s.add(day), blobtest.NewMemory(nil)
				rule.Fault, rule.After = fault, 50
				dest := blob.Store(to)
				if rule.Op == blobtest.Put {
					dest = blobtest.NewFaulty(to, rule)
				} else {
					s.store = blobtest.NewFaulty(s.memory, rule)
				}
				_, err := s.copyTo(dest, id)
				if err == nil && !(fault == blobtest.CutSilently && rule.Op == blobtest.Put && rule.Name == "*.json") {
					t.Error("no error")
				}
				list, err := backup.List(t.Context(), to, s.trust)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					if l.State == string(archive.StateGood) {
						if _, err := backup.Verify(t.Context(), backup.VerifyConfig{Store: to, ID: id, Trust: s.trust}); err != nil {
							t.Errorf("listed as good: %v", err)
						}
					}
				}
				s.store = s.memory
				_, err = s.copyTo(to, id)
				if fault == blobtest.CutSilently && rule.Op == blobtest.Put {
					// The store lied; what it holds is not replaced, and said.
					if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "the destination holds") {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				s.same(to, id)
			})
		}
	}
	if cases < 20 {
		t.Errorf("only %d cases", cases)
	}
}

func TestCopyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(s *shelf, to *blobtest.Memory, id archive.ID)
		kind   problem.Kind
		text   string
	}{
		"damaged source": {func(s *shelf, _ *blobtest.Memory, id archive.ID) {
			s.memory.Tamper(id.ArchiveName(), func(b []byte) []byte { b[7] ^= 1; return b })
		}, problem.Damaged, "is damaged in \"memory\": the checksum of the stored bytes differs"},
		"short source": {func(s *shelf, _ *blobtest.Memory, id archive.ID) {
			s.memory.Tamper(id.ArchiveName(), func(b []byte) []byte { return b[:100] })
		}, problem.Damaged, "100 of 280 bytes are stored"},
		"no archive in the source": {func(s *shelf, _ *blobtest.Memory, id archive.ID) {
			s.memory.Delete(s.t.Context(), id.ArchiveName())
		}, problem.NotFound, "reading archive"},
		"forged sidecar": {func(s *shelf, _ *blobtest.Memory, id archive.ID) {
			s.memory.Tamper(id.SidecarName(), func(b []byte) []byte { b[30] ^= 1; return b })
		}, problem.Untrusted, "sidecar of"},
		"unknown signer": {func(s *shelf, _ *blobtest.Memory, id archive.ID) {
			s.trust = backup.Trust{}
		}, problem.Untrusted, "is signed by n8s1-"},
		"another sidecar there": {func(s *shelf, to *blobtest.Memory, id archive.ID) {
			to.Put(s.t.Context(), id.SidecarName(), strings.NewReader("something"))
		}, problem.Damaged, "the destination holds another sidecar under the id"},
		"another archive there": {func(s *shelf, to *blobtest.Memory, id archive.ID) {
			to.Put(s.t.Context(), id.ArchiveName(), strings.NewReader(strings.Repeat("x", 280)))
		}, problem.Damaged, "the destination holds other data under the id"},
		"another size there": {func(s *shelf, to *blobtest.Memory, id archive.ID) {
			if _, err := s.copyTo(to, id); err != nil {
				s.t.Fatal(err)
			}
			to.Tamper(id.ArchiveName(), func(b []byte) []byte { return b[:1] })
		}, problem.Damaged, "an archive of 1 bytes instead of 280"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			id, to := s.add(day), blobtest.NewMemory(nil)
			c.damage(s, to, id)
			before := blobtest.Names(t, to, "")
			_, err := s.copyTo(to, id)
			if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || problem.HintOf(err) == "" {
				t.Errorf("got %q %v (hint %q)", problem.KindOf(err), err, problem.HintOf(err))
			}
			if diff := cmp.Diff(before, blobtest.Names(t, to, "")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCopyWithPutAlone: the destination lets nothing be read.
func TestCopyWithPutAlone(t *testing.T) {
	s := newShelf(t)
	id, to := s.add(day), blobtest.NewMemory(nil)
	var rules []blobtest.Rule
	for _, op := range []blobtest.Op{blobtest.Get, blobtest.Stat, blobtest.List, blobtest.Delete} {
		rules = append(rules, blobtest.Rule{Op: op, Fault: blobtest.NotStored})
	}
	if _, err := s.copyTo(blobtest.NewFaulty(to, rules...), id); err != nil {
		t.Fatal(err)
	}
	s.same(to, id)
	_, err := s.copyTo(blobtest.NewFaulty(to, rules...), id)
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "reading") {
		t.Errorf("got %v", err)
	}
}

// TestCopyBehindAStrangeSidecar: one that cannot be read need not be ours.
func TestCopyBehindAStrangeSidecar(t *testing.T) {
	s := newShelf(t)
	id, to := s.add(day), blobtest.NewMemory(nil)
	if _, err := to.Put(t.Context(), id.SidecarName(), strings.NewReader("another")); err != nil {
		t.Fatal(err)
	}
	_, err := s.copyTo(blobtest.NewFaulty(to, blobtest.Rule{Op: blobtest.Get, Fault: blobtest.NotStored}), id)
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "writing the sidecar") {
		t.Errorf("got %v", err)
	}
}

func TestMissing(t *testing.T) {
	s := newShelf(t)
	a, b, c := s.add(0), s.add(day), s.add(2*day)
	s.addIncomplete(3 * day)
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger := s.addOf(noon.Add(-time.Hour), noon, other)
	to := blobtest.NewMemory(nil)
	if _, err := s.copyTo(to, b); err != nil {
		t.Fatal(err)
	}
	to.Put(t.Context(), c.ArchiveName(), strings.NewReader("cut")) // without a sidecar
	list := func(st blob.Store) backup.ListConfig { return backup.ListConfig{Store: st, Trust: s.trust} }
	got, err := backup.Missing(t.Context(), list(s.memory), list(to), "")
	if diff := cmp.Diff([]archive.ID{c, stranger, a}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got, err := backup.Missing(t.Context(), list(s.memory), list(to), "test"); err != nil || len(got) > 0 {
		t.Errorf("%v %v", got, err)
	}
}
