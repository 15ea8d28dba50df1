package backup_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blob/fileblob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/retention"
	"github.com/n8keep/n8keep/internal/state"
)

const day = 24 * time.Hour

// objects are the names of what archives are made of, sorted.
func objects(ids ...archive.ID) []string {
	names := []string{}
	for _, id := range ids {
		names = append(names, id.ArchiveName(), id.SidecarName())
	}
	slices.Sort(names)
	return names
}

func TestPrune(t *testing.T) {
	s := newShelf(t)
	a, b, c := s.add(0), s.add(day), s.add(2*day)
	s.add(3 * day)
	s.add(40 * day)
	s.put("notes.txt", []byte("somebody else's"))
	plan := s.plan(retention.Policy{Daily: 3})
	if n, bytes := plan.Removes(); n != 2 || bytes != 2*10*int64(len(a)) {
		t.Errorf("%d archives, %d bytes", n, bytes)
	}
	if len(s.names()) != 11 {
		t.Fatal("planning removed something")
	}
	res, err := plan.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(objects(a, b, c), "notes.txt"), s.names()); diff != "" {
		t.Error(diff)
	}
	if res.Removed != 2 || res.Kept != 3 || res.Failed != 0 || !slices.Equal(res.Proved, []string{string(a)}) {
		t.Errorf("%+v", res)
	}
	// What was proved is remembered, so the next prune does not read it again.
	s.add(-day)
	s.clock = noon.Add(day)
	plan = s.plan(retention.Policy{Daily: 3})
	if n, _ := plan.Removes(); n != 1 || len(plan.Proofs) != 0 {
		t.Errorf("%d archives, proofs %v", n, plan.Proofs)
	}
	if res, err := plan.Apply(t.Context()); err != nil || res.Removed != 1 || len(res.Proved) != 0 {
		t.Errorf("%+v %v", res, err)
	}
	// And the third has nothing to do.
	if n, _ := s.plan(retention.Policy{Daily: 3}).Removes(); n != 0 {
		t.Errorf("%d archives", n)
	}
}

// TestNothingGoesBeforeAGoodOneWasProved: the newest archives are damaged where
// they are stored, which no list shows.
func TestNothingGoesBeforeAGoodOneWasProved(t *testing.T) {
	s := newShelf(t)
	var ids []archive.ID
	for d := range 5 {
		ids = append(ids, s.add(time.Duration(d)*day))
	}
	damage := func(id archive.ID) {
		s.memory.Tamper(id.ArchiveName(), func(b []byte) []byte { b[3] ^= 1; return b })
	}
	damage(ids[0])
	damage(ids[1])
	plan := s.plan(retention.Policy{Last: 1})
	if n, _ := plan.Removes(); n != 4 {
		t.Fatalf("%d to remove", n)
	}
	res, err := plan.Apply(t.Context())
	if problem.KindOf(err) != problem.Partial || !strings.Contains(err.Error(), "2 archives removed, 2 archives not: archive \""+string(ids[0])+"\" is damaged") {
		t.Errorf("got %v", err)
	}
	// The damaged ones stay as evidence, the newest sound one although the policy would not keep it.
	if diff := cmp.Diff(objects(ids[0], ids[1], ids[2]), s.names()); diff != "" {
		t.Error(diff)
	}
	if res.Removed != 2 || res.Failed != 2 || res.Archives[2].Reason != "newest good that was verified here, just now" {
		t.Errorf("%+v", res)
	}
	// From then on they are known to be damaged, and do not count.
	plan = s.plan(retention.Policy{Last: 1})
	for i, want := range []string{"it was found damaged on 2026-11-20", "it was found damaged on 2026-11-20", "last 1, newest good"} {
		if d := plan.Decisions[i]; !d.Keep || d.Reason != want {
			t.Errorf("%s", d)
		}
	}
	if f := codes(plan.Findings); f[backup.FoundDamaged] != 2 {
		t.Errorf("%v", plan.Findings)
	}
}

// TestGroupWithoutAProofStays: none is sound, or the target does not let read.
func TestGroupWithoutAProofStays(t *testing.T) {
	s := newShelf(t)
	a, b := s.add(0), s.add(day)
	for _, id := range []archive.ID{a, b} {
		s.memory.Tamper(id.ArchiveName(), func(b []byte) []byte { b[0] ^= 1; return b })
	}
	s.addIncomplete(2 * day)
	res, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context())
	if problem.KindOf(err) != problem.Partial || res.Removed != 1 || res.Failed != 2 {
		t.Errorf("%+v %v", res, err)
	}
	if diff := cmp.Diff(objects(a, b), s.names()); diff != "" { // the incomplete one needs no proof
		t.Error(diff)
	}

	s = newShelf(t)
	a, b = s.add(0), s.add(day)
	s.store = blobtest.NewFaulty(s.memory, blobtest.Rule{Op: blobtest.Get, Name: "*.age", Fault: blobtest.NotStored})
	res, err = s.plan(retention.Policy{Last: 1}).Apply(t.Context())
	if problem.KindOf(err) != problem.Partial || !strings.Contains(err.Error(), "0 archives removed, 1 archive not: reading archive") || problem.HintOf(err) == "" {
		t.Errorf("got %v (hint %q)", err, problem.HintOf(err))
	}
	if res.Archives[1].Reason != "no good archive of it could be verified first" {
		t.Errorf("%+v", res.Archives)
	}
	if diff := cmp.Diff(objects(a, b), s.names()); diff != "" {
		t.Error(diff)
	}
}

func (s *shelf) addIncomplete(age time.Duration) archive.ID {
	s.t.Helper()
	id, content, _ := s.sign(noon.Add(-age), s.key)
	s.clock = noon.Add(-age)
	s.put(id.ArchiveName(), content)
	s.clock = noon
	return id
}

func codes(fs []archive.Finding) map[string]int {
	m := map[string]int{}
	for _, f := range fs {
		m[f.Code]++
	}
	return m
}

// TestWhatIsStrangeStays and is named.
func TestWhatIsStrangeStays(t *testing.T) {
	s := newShelf(t)
	good := s.add(0)
	s.remember(good, backup.Quick, noon, nil)
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	strange := []archive.ID{
		s.addOf(noon.Add(-10*day), noon.Add(-10*day), other), s.add(11 * day), s.add(12 * day), s.add(13 * day), s.add(14 * day), s.add(15 * day)}
	s.memory.Tamper(strange[1].SidecarName(), func(b []byte) []byte { b[30] ^= 1; return b })
	s.memory.Tamper(strange[2].ArchiveName(), func(b []byte) []byte { return b[:len(b)-1] })
	if err := s.memory.Delete(t.Context(), strange[3].ArchiveName()); err != nil {
		t.Fatal(err)
	}
	s.remember(strange[4], backup.Full, noon.Add(-day), problem.New(problem.Damaged, "contents"))
	s.remember(strange[4], backup.Quick, noon.Add(-time.Hour), nil) // is no answer to that
	s.store = &marked{Store: s.memory, clock: noon, altered: map[string]string{strange[5].SidecarName(): "a newer version was put over it"}}
	young := s.addIncomplete(23 * time.Hour)
	goes := []archive.ID{s.add(20 * day), s.addIncomplete(25 * time.Hour)}

	plan := s.plan(retention.Policy{Last: 1})
	want := map[string]int{backup.FoundUntrusted: 1, backup.FoundUnreadable: 1, backup.FoundWrongSize: 1, backup.FoundNoArchive: 1, backup.FoundDamaged: 1, backup.FoundAltered: 1}
	if diff := cmp.Diff(want, codes(plan.Findings)); diff != "" {
		t.Error(diff)
	}
	before := s.names()
	res, err := plan.Apply(t.Context())
	if err != nil || res.Removed != 2 {
		t.Fatalf("%+v %v", res, err)
	}
	gone := objects(goes...)
	left := slices.DeleteFunc(before, func(n string) bool { return slices.Contains(gone, n) })
	if diff := cmp.Diff(left, s.names()); diff != "" || !slices.Contains(left, young.ArchiveName()) {
		t.Error(diff)
	}
}

func TestLocksAreRespected(t *testing.T) {
	for _, inList := range []bool{true, false} {
		s := newShelf(t)
		s.remember(s.add(0), backup.Quick, noon, nil)
		a, b, c := s.add(day), s.add(2*day), s.add(3*day)
		s.store = &marked{Store: s.memory, clock: noon, inList: inList, locked: map[string]time.Time{a.SidecarName(): noon.Add(day), b.SidecarName(): noon.Add(2 * day), b.ArchiveName(): noon.Add(day)}}
		plan := s.plan(retention.Policy{Last: 1})
		if n, _ := plan.Removes(); n != 1 || plan.Decisions[2].Reason != "locked until 2026-11-22T12:00:00Z" {
			t.Errorf("%d, %v", n, plan.Decisions)
		}
		// The lock of c came after the plan; the archive's alone, as a hold by hand may be.
		s.store.(*marked).locked[c.ArchiveName()] = noon.Add(day)
		res, err := plan.Apply(t.Context())
		if err != nil || res.Removed != 0 || res.Archives[3].Reason != "locked until 2026-11-21T12:00:00Z" {
			t.Errorf("%+v %v", res, err)
		}
		// A store that does not tell, and refuses: both objects stay.
		s.store.(*marked).locked = map[string]time.Time{c.SidecarName(): {}, c.ArchiveName(): {}}
		res, err = s.plan(retention.Policy{Last: 2}).Apply(t.Context())
		if err != nil || res.Removed != 1 || res.Archives[3].Reason != "locked by the target" {
			t.Errorf("%+v %v", res, err)
		}
		if diff := cmp.Diff(objects(a, c), s.names()[:4]); diff != "" && len(s.names()) != 6 {
			t.Error(diff)
		}
	}
}

func TestPruneByKeyAndKind(t *testing.T) {
	s := newShelf(t)
	key := func(fp string) func(*archive.Sidecar) {
		return func(d *archive.Sidecar) { d.KeyFingerprint = fp }
	}
	workflows := func(d *archive.Sidecar) { d.Engine = backup.EngineWorkflows }
	a, old, older := s.add(0), s.add(day, key("n8k1-old")), s.add(2*day, key("n8k1-older"))
	s.add(3*day, key("n8k1-older"))
	w := s.add(4*day, workflows)
	s.add(5*day, workflows)
	cfg := s.pruneConfig(retention.Policy{Last: 1})
	cfg.ForgottenKeys = []string{"n8k1-old"}
	_ = old
	plan, err := backup.PlanPrune(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(objects(a, older, w), s.names()); diff != "" {
		t.Error(diff)
	}
}

// TestLastSoundArchiveOfAnOldKey: the one that the policy keeps for it has rotted,
// or was forged with its fingerprint.
func TestLastSoundArchiveOfAnOldKey(t *testing.T) {
	const k1 = "n8k1-old"
	old := func(d *archive.Sidecar) { d.KeyFingerprint = k1 }
	rot := func(s *shelf, id archive.ID) {
		s.memory.Tamper(id.ArchiveName(), func(b []byte) []byte { b[3] ^= 1; return b })
	}
	for _, verified := range []bool{false, true} { // the newest archive, which is of another key
		s := newShelf(t)
		a, b, c := s.add(0), s.add(day, old), s.add(2*day, old)
		s.add(3*day, old)
		if verified {
			s.remember(a, backup.Quick, noon, nil)
		}
		s.remember(b, backup.Quick, noon.Add(-8*day), nil)
		rot(s, b)
		res, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context())
		if problem.KindOf(err) != problem.Partial || !strings.Contains(err.Error(), "1 archive removed, 1 archive not: archive \""+string(b)+"\" is damaged") {
			t.Errorf("got %v", err)
		}
		if diff := cmp.Diff(objects(a, b, c), s.names()); diff != "" {
			t.Error(diff)
		}
		if got := res.Archives[2].Reason; got != "the newest that key n8k1-old opens and that was verified here, just now" {
			t.Errorf("%q", got)
		}
	}

	// None is sound: all of that key stay, the others go.
	s := newShelf(t)
	a := s.add(0)
	s.add(time.Hour)
	b, c, d := s.add(day, old), s.add(2*day, old), s.add(3*day, old, func(d *archive.Sidecar) { d.State = archive.StateDegraded })
	rot(s, b)
	rot(s, c)
	res, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context())
	if problem.KindOf(err) != problem.Partial || res.Removed != 1 || !slices.Equal(res.Proved, []string{string(a)}) {
		t.Errorf("%+v %v", res, err)
	}
	if diff := cmp.Diff(objects(a, b, c, d), s.names()); diff != "" {
		t.Error(diff)
	}
	if got := res.Archives[4].Reason; got != "no archive that key n8k1-old opens could be verified first" {
		t.Errorf("%q", got)
	}

	// A thief of the signing key vouches for nothing, and makes it look like k1's.
	s = newShelf(t)
	a, b = s.add(0), s.add(day, old)
	forged := s.add(time.Hour, old, func(d *archive.Sidecar) { d.SHA256 = strings.Repeat("0", 64) })
	s.remember(a, backup.Quick, noon, nil)
	if _, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context()); problem.KindOf(err) != problem.Partial {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(objects(b, forged, a), s.names()); diff != "" {
		t.Error(diff)
	}
}

// TestArchiveReplacedAfterThePlan: the proof is of what was planned with, not of
// what lies there by then.
func TestArchiveReplacedAfterThePlan(t *testing.T) {
	s := newShelf(t)
	a, b := s.add(0), s.add(day)
	s.add(2 * day)
	plan := s.plan(retention.Policy{Last: 1})
	_, content, sidecar := s.sign(noon, s.key, func(d *archive.Sidecar) { d.ID = a })
	s.memory.Tamper(a.ArchiveName(), func([]byte) []byte { return content })
	s.memory.Tamper(a.SidecarName(), func([]byte) []byte { return sidecar })
	res, err := plan.Apply(t.Context())
	if problem.KindOf(err) != problem.Partial || !strings.Contains(err.Error(), "archive \""+string(a)+"\" has another sidecar than when the target was listed") || !strings.Contains(problem.HintOf(err), "find out who did") {
		t.Fatalf("got %v (hint %q)", err, problem.HintOf(err))
	}
	if !slices.Equal(res.Proved, []string{string(b)}) || res.Archives[0].Reason != "not found as it was listed, just now" {
		t.Errorf("%+v", res)
	}
	if diff := cmp.Diff(objects(a, b), s.names()); diff != "" {
		t.Error(diff)
	}
	known, err := s.state.Verifications(t.Context(), s.memory.Properties().Location)
	if err != nil || len(known[string(a)]) != 0 || len(known[string(b)]) != 1 {
		t.Errorf("%+v %v", known, err)
	}
}

func TestPruneOfOneInstance(t *testing.T) {
	s := newShelf(t)
	s.add(0)
	s.add(day)
	cfg := s.pruneConfig(retention.Policy{Last: 1})
	cfg.Instance = "test"
	plan, err := backup.PlanPrune(t.Context(), cfg)
	if err != nil || len(plan.Decisions) != 0 {
		t.Errorf("%v %v", plan.Decisions, err)
	}
}

func TestClockIsChecked(t *testing.T) {
	const year = 365 * day
	s := newShelf(t)
	s.add(time.Hour)
	if _, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused := func(name, want string) {
		t.Helper()
		_, err := backup.PlanPrune(t.Context(), s.pruneConfig(retention.Policy{Last: 1}))
		if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), want) || !strings.Contains(problem.HintOf(err), "--accept-clock") {
			t.Errorf("%s: got %v (hint %q)", name, err, problem.HintOf(err))
		}
	}
	s.clock = noon.Add(year)
	refused("forward", "was set forward, or nothing was stored since")
	s.clock = noon.Add(-year)
	refused("back", "was set back, or it was ahead then")

	cfg := s.pruneConfig(retention.Policy{Last: 1})
	cfg.AcceptClock = true
	plan, err := backup.PlanPrune(t.Context(), cfg)
	if err != nil || len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "set back") {
		t.Errorf("%v %v", plan, err)
	}
	// What was accepted is what counts from then on.
	s.clock = noon.Add(year)
	cfg = s.pruneConfig(retention.Policy{Last: 1})
	cfg.AcceptClock = true
	if plan, err = backup.PlanPrune(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.clock = noon.Add(year + day)
	s.plan(retention.Policy{Last: 1})
	s.clock = noon
	refused("pruned by a clock that was ahead", "but the target was pruned on 2027-11-20")

	s.store = &marked{Store: s.memory, clock: noon}
	s.clock = noon.Add(year)
	refused("target with a clock", "this host's clock says 2027-11-20 12:00 UTC, the target's 2026-11-20 12:00 UTC")
	s.store = &marked{Store: s.memory, clockErr: errors.New("no answer")}
	_, err = backup.PlanPrune(t.Context(), s.pruneConfig(retention.Policy{Last: 1}))
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "asking the target for its time") {
		t.Errorf("got %v", err)
	}
}

// TestInterruptedPrune goes through every fault at every deletion: what is listed
// is whole or incomplete, never a sidecar without its data, and the next prune ends it.
func TestInterruptedPrune(t *testing.T) {
	cases := 0
	for _, fault := range []blobtest.Fault{blobtest.NotStored, blobtest.StoredButFailed, blobtest.Killed, blobtest.KilledAfter} {
		for nth := 1; nth <= 4; nth++ {
			cases++
			t.Run(fmt.Sprintf("%s %d", fault, nth), func(t *testing.T) {
				s := newShelf(t)
				a := s.add(0)
				s.add(day)
				s.add(2 * day)
				s.store = blobtest.NewFaulty(s.memory, blobtest.Rule{Op: blobtest.Delete, Nth: nth, Fault: fault})
				res, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context())
				if problem.KindOf(err) != problem.Partial || res.Failed == 0 || !strings.Contains(err.Error(), "removing") {
					t.Errorf("%+v %v", res, err)
				}
				list, err := backup.List(t.Context(), s.memory, s.trust)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					if l.NoArchive {
						t.Errorf("%s has a sidecar and no data", l.ID)
					}
				}
				s.store = s.memory
				if res, err := s.plan(retention.Policy{Last: 1}).Apply(t.Context()); err != nil || res.Failed != 0 {
					t.Errorf("%+v %v", res, err)
				}
				if diff := cmp.Diff(objects(a), s.names()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
	if cases == 0 {
		t.Fatal("no cases")
	}
}

func TestCompletedMeanwhile(t *testing.T) {
	s := newShelf(t)
	id, content, sidecar := s.sign(noon.Add(-2*day), s.key)
	s.clock = noon.Add(-2 * day)
	s.put(id.ArchiveName(), content)
	s.clock = noon
	plan := s.plan(retention.Policy{Last: 1})
	s.put(id.SidecarName(), sidecar)
	res, err := plan.Apply(t.Context())
	if err != nil || res.Removed != 0 || res.Archives[0].Reason != "it was completed meanwhile" || len(s.names()) != 2 {
		t.Errorf("%+v %v", res, err)
	}
}

// TestTimesThatDiffer are findings: a copied target.
func TestTimesThatDiffer(t *testing.T) {
	s := newShelf(t)
	for d := range 5 {
		s.addOf(noon.Add(-time.Duration(d)*day), noon, s.key)
	}
	plan := s.plan(retention.Policy{Daily: 3})
	if n, _ := plan.Removes(); n != 0 { // all were stored today
		t.Errorf("%d to remove", n)
	}
	if diff := cmp.Diff(map[string]int{backup.FoundTimeDiffers: 4}, codes(plan.Findings)); diff != "" {
		t.Error(diff)
	}
	if want := "made 2026-11-19 12:00 by its own clock, stored 2026-11-20 12:00 by the target's"; !strings.Contains(plan.Findings[0].Detail, want) {
		t.Errorf("%q", plan.Findings[0].Detail)
	}
}

// TestWarmListReadsNoSidecar: the second list asks the target for its listing only,
// also after an archive came and one went.
func TestWarmListReadsNoSidecar(t *testing.T) {
	s := newShelf(t)
	var ids []archive.ID
	for d := range 50 {
		ids = append(ids, s.add(time.Duration(d)*day))
	}
	reads := func(want int) {
		t.Helper()
		counted := blobtest.NewFaulty(s.memory)
		if _, err := (backup.ListConfig{Store: counted, Trust: s.trust, Cache: s.state}).List(t.Context()); err != nil {
			t.Fatal(err)
		}
		gets, other := 0, 0
		for _, c := range counted.Calls() {
			if c.Op == blobtest.Get {
				gets++
			} else if c.Op != blobtest.List {
				other++
			}
		}
		if gets != want || other > 0 {
			t.Errorf("%d sidecars read, want %d; %d other calls", gets, want, other)
		}
	}
	reads(50)
	reads(0)
	s.add(-time.Hour)
	for _, name := range objects(ids[3]) {
		if err := s.memory.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	reads(1)
	if known, err := s.state.Sidecars(t.Context(), "memory"); err != nil || len(known) != 50 {
		t.Errorf("%d remembered, %v", len(known), err)
	}
	// A sidecar that was replaced has another size or time; here its content alone
	// is forged, in the cache as well as in the target.
	s.memory.Tamper(ids[5].SidecarName(), func(b []byte) []byte { return append(b, ' ') })
	reads(1)
	if err := s.state.UpdateSidecars(t.Context(), "memory", []state.Sidecar{{Name: ids[6].SidecarName(), Size: sizeOf(t, s.memory, ids[6].SidecarName()), ModTime: noon.Add(-6 * day), Content: []byte("{}")}}, nil); err != nil {
		t.Fatal(err)
	}
	reads(2) // and the unreadable one, which is not remembered
}

func sizeOf(t *testing.T, s blob.Store, name string) int64 {
	t.Helper()
	info, err := s.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size
}

// TestCacheThatFails is no reason not to list.
func TestCacheThatFails(t *testing.T) {
	s := newShelf(t)
	s.add(0)
	if err := s.state.Close(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	list, err := (backup.ListConfig{Store: s.memory, Trust: s.trust, Cache: s.state, Logger: slog.New(slog.NewTextHandler(&log, nil))}).List(t.Context())
	if err != nil || len(list) != 1 || list[0].State != string(archive.StateGood) {
		t.Errorf("%+v %v", list, err)
	}
	if !strings.Contains(log.String(), "remembered sidecars cannot be used") {
		t.Errorf("%q", log.String())
	}
}

// BenchmarkTenThousand is what the manual's figures for large targets come from:
// archives in a folder, listed without and with a cache, and a plan.
func BenchmarkTenThousand(b *testing.B) {
	const archives = 10_000
	s := newShelf(b)
	folder, err := fileblob.New(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s.store = folder
	for i := range archives {
		s.add(time.Duration(i) * time.Hour)
	}
	cold := backup.ListConfig{Store: folder, Trust: s.trust}
	list := func(cfg backup.ListConfig) {
		if all, err := cfg.List(b.Context()); err != nil || len(all) != archives {
			b.Fatalf("%d, %v", len(all), err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			list(cold)
		}
	})
	warm := cold
	warm.Cache = s.state
	list(warm)
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			list(warm)
		}
	})
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			s.clock = time.Now() // a folder has no clock but the host's
			if n, _ := s.plan(retention.Policy{Daily: 30, Weekly: 14}).Removes(); n == archives {
				b.Fatal("nothing stays")
			}
		}
	})
}
