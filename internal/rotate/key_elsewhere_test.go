package rotate

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// variableService is an n8n that takes its key from a variable alone: the file "variable".
type variableService struct{ fakeService }

func (s variableService) Start(context.Context) error {
	text, err := os.ReadFile(s.j.path("variable"))
	if err != nil {
		return err
	}
	return os.WriteFile(s.j.path("running"), text, 0o600)
}

// byVariable is a config of a job whose n8n takes its key from a variable, which holds one
// of the keys by now.
func (j job) byVariable(t *testing.T, holds string) Config {
	t.Helper()
	if err := os.WriteFile(j.path("variable"), []byte(holds), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := j.mustConfig(t)
	cfg.Service, cfg.Files = variableService{fakeService{j}}, nil
	if j.Do == "run" {
		cfg.KeyElsewhere = []string{"N8N_ENCRYPTION_KEY"}
	}
	return cfg
}

// running is the key with which a world's n8n runs.
func (j job) running(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(j.path("running"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// TestKeySetElsewhere: where n8n's key is set in a variable, which holds the other key by
// now, what has failed does not start n8n with it, in neither direction.
func TestKeySetElsewhere(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	failed := at("preimages-complete 1", func() error { return errors.New("no room") })
	j := b.world(t)
	before := b.rowsOf(t, j)
	cfg := j.byVariable(t, "new")
	cfg.fault = failed
	r, err := Run(t.Context(), cfg)
	says(t, "forward", err, problem.Unexpected, "no room; and then, on the way back: n8n was not started again: its key is set in N8N_ENCRYPTION_KEY, where n8keep does not change it",
		"put the key "+string(oldFP)+" there, then go back with \"n8keep rotate rollback "+testID+"\", which starts it", "n8n was stopped by n8keep", "n8keep rotate resume "+testID)
	if r.Journal.State != Applying || j.running(t) != "" || b.rowsOf(t, j) != before {
		t.Fatalf("%+v, n8n runs with %q", r.Journal, j.running(t))
	}
	j.Do = "rollback"
	if r, err = Rollback(t.Context(), j.byVariable(t, "old")); err != nil || r.Journal.State != RolledBack || j.running(t) != "old" {
		t.Fatalf("%+v, %v, n8n runs with %q", r.Journal, err, j.running(t))
	}
	if want := "n8n's key is also set in N8N_ENCRYPTION_KEY, where n8keep does not change it: the old key " + string(oldFP) + " has to be there again before n8n starts"; !strings.Contains(strings.Join(r.Journal.BackWarnings(), "\n"), want) {
		t.Errorf("%q", r.Journal.BackWarnings())
	}

	// Or it goes on.
	j = b.world(t)
	cfg = j.byVariable(t, "new")
	cfg.fault = at("preimages-complete 1", func() error { return errors.New("no room") })
	if _, err := Run(t.Context(), cfg); err == nil {
		t.Fatal("nothing failed")
	}
	j.Do = "resume"
	if r, err := Resume(t.Context(), j.byVariable(t, "new")); err != nil || r.Journal.State != Verified || j.running(t) != "new" {
		t.Fatalf("%+v, %v, n8n runs with %q", r.Journal, err, j.running(t))
	}
	after := b.rowsOf(t, j)

	// The old key is there again, and the rollback fails.
	j.Do = "rollback"
	cfg = j.byVariable(t, "old")
	cfg.fault = at("restore-rows 1", func() error { return errors.New("no room") })
	r, err = Rollback(t.Context(), cfg)
	says(t, "back", err, problem.Unexpected, "no room; and then, on the way back: n8n was not started again", "put the key "+string(newFP)+" there, then start it yourself", "the rollback has changed nothing yet", "n8keep rotate rollback "+testID)
	if r.Journal.State != RollingBack || j.running(t) != "" || b.rowsOf(t, j) != after {
		t.Fatalf("%+v, n8n runs with %q", r.Journal, j.running(t))
	}
	if r, err := Rollback(t.Context(), j.byVariable(t, "old")); err != nil || r.Journal.State != RolledBack || j.running(t) != "old" || b.rowsOf(t, j) != before {
		t.Fatalf("%+v, %v, n8n runs with %q", r.Journal, err, j.running(t))
	}

	// What fails before n8n is stopped leaves it running, and the new key where it was put.
	j = b.world(t)
	cfg = j.byVariable(t, "new")
	cfg.Backup = func(context.Context) (BackupRef, error) { return BackupRef{}, errors.New("no target") }
	r, err = Run(t.Context(), cfg)
	says(t, "backup", err, problem.Unexpected, "no target", "where you have put the new key already (N8N_ENCRYPTION_KEY), put the old one back before n8n is started the next time")
	if r.Journal.State != Abandoned || j.running(t) != "old" {
		t.Fatalf("%+v, n8n runs with %q", r.Journal, j.running(t))
	}
}

// TestThirdKeyInAFile: a rotation that changed nothing does not end with an n8n that is
// started with a key of nobody.
func TestThirdKeyInAFile(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.interrupted(t, "preimages-complete 1")
	write := func(key string) {
		t.Helper()
		if err := os.WriteFile(j.path("home", "key-file"), []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a-third-key-that-is-of-no-use-here")
	j.Do = "rollback"
	r, err := j.do()
	says(t, "third key", err, problem.CheckFailed, "n8n was not started again", "key-file", "put the right key there, and go on")
	if r.Journal.State != Applying || j.running(t) != "" {
		t.Fatalf("%+v, n8n runs with %q", r.Journal, j.running(t))
	}
	write(j.Old)
	b.finish(t, j, "rollback", "third key")
}

// TestPlanKeyElsewhere: the places of a plan that the rotation does not change.
func TestPlanKeyElsewhere(t *testing.T) {
	old, now := Key{Key: planKey(t, "old-key-text")}, Key{Key: planKey(t, strongKey)}
	config := KeySource{Source: string(n8nhome.InConfig), Where: "/n8n/config", Key: old.Key, Changed: true}
	ignored := KeySource{Source: "key-file", Where: "/k", Key: old.Key, Ignored: "this n8n does not read it"}
	for name, c := range map[string]struct {
		sources []KeySource
		want    []string
	}{
		"files only":    {[]KeySource{config, ignored}, nil},
		"a unit, too":   {[]KeySource{config, {Source: "N8N_ENCRYPTION_KEY in the systemd unit", Where: "/etc/n8n.service:7", Key: now.Key}}, []string{"N8N_ENCRYPTION_KEY in the systemd unit (/etc/n8n.service:7)"}},
		"a reference":   {[]KeySource{config, {Source: "N8N_ENCRYPTION_KEY", Do: "set it"}}, []string{"N8N_ENCRYPTION_KEY"}},
		"nothing known": {[]KeySource{ignored}, []string{"a place that n8keep does not know"}},
	} {
		p := &Plan{}
		p.sources(PlanConfig{Old: old, New: now, Sources: c.sources, KeySetByUser: true})
		if diff := cmp.Diff(c.want, p.KeyElsewhere()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
