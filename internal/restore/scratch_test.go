package restore

import (
	"context"
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/pgserver"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// scratchConfig is the made-up archive, unpacked, and a database to connect to.
func scratchConfig(dsn, work string) (ScratchConfig, error) {
	p := postgresConfig(dsn, work, "", audit.Receipt{})
	u, err := p.Unpack(context.Background(), work)
	return ScratchConfig{Manifest: u.Manifest, Dir: work, DSN: dsn, Load: p.Load, Prove: p.Prove}, err
}

func mustScratch(t *testing.T, dsn string) ScratchConfig {
	t.Helper()
	cfg, err := scratchConfig(dsn, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// scratch is the process that is killed.
func (j job) scratch(ctx context.Context) error {
	work, err := os.MkdirTemp(j.State, "work-")
	if err != nil {
		return err
	}
	cfg, err := scratchConfig(j.DSN, work)
	if err != nil {
		return err
	}
	return Scratch(ctx, cfg)
}

// TestScratch: the database of the address is not touched, whatever is in it.
func TestScratch(t *testing.T) {
	s := newServer(t)
	s.exec(s.dsn, `CREATE TABLE customers (id int)`)
	cfg := mustScratch(t, s.dsn)
	seen := ""
	prove := cfg.Prove
	cfg.Prove = func(ctx context.Context, dsn string, m archive.Manifest) error {
		u, err := url.Parse(dsn)
		if err != nil {
			return err
		}
		seen = u.Path[1:]
		return prove(ctx, dsn, m)
	}
	var steps []string
	cfg.Progress = func(step string) { steps = append(steps, step) }
	if did, err := CheckScratch(t.Context(), cfg); err != nil || len(did) > 0 {
		t.Fatal(did, err)
	}
	if err := Scratch(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(seen, s.name+"_verify_n8keep_") || len(steps) < 3 {
		t.Errorf("proved in %q, %q", seen, steps)
	}
	if got := s.databases(); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
	if text, err := s.query(s.dsn, `SELECT string_agg(tablename, ',') FROM pg_tables WHERE schemaname = 'public'`); text != "customers" || err != nil {
		t.Error(text, err)
	}
	// The server's own database may be the one to connect to.
	if err := Scratch(t.Context(), mustScratch(t, s.in("postgres"))); err != nil {
		t.Error(err)
	}
}

// TestScratchFails: whatever fails, nothing is left.
func TestScratchFails(t *testing.T) {
	s := newServer(t)
	for name, c := range map[string]struct {
		change func(*ScratchConfig, context.CancelFunc)
		kind   problem.Kind
		text   string
	}{
		"load": {func(c *ScratchConfig, _ context.CancelFunc) {
			c.Load = func(context.Context, string, string, archive.Manifest) error { return errors.New("half of it") }
		}, problem.Unexpected, "loading archive"},
		"prove": {func(c *ScratchConfig, _ context.CancelFunc) {
			c.Prove = func(context.Context, string, archive.Manifest) error {
				return problem.New(problem.Damaged, "one secret less")
			}
		}, problem.Damaged, "one secret less"},
		"cancelled while loading": {func(c *ScratchConfig, cancel context.CancelFunc) {
			load := c.Load
			c.Load = func(ctx context.Context, dsn, dir string, m archive.Manifest) error {
				err := load(ctx, dsn, dir, m)
				cancel()
				return errors.Join(err, ctx.Err())
			}
		}, problem.Interrupted, "loading archive"},
		"nowhere": {func(c *ScratchConfig, _ context.CancelFunc) {
			c.DSN = "postgres://n8n:hunter2secret@127.0.0.1:1/n8n"
		}, problem.Unreachable, "cannot connect"},
		"no address": {func(c *ScratchConfig, _ context.CancelFunc) { c.DSN = "postgres://%" }, problem.Usage, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := mustScratch(t, s.dsn)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.change(&cfg, cancel)
			err := Scratch(ctx, cfg)
			if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
				t.Errorf("%v: %v\n%s", problem.KindOf(err), err, problem.HintOf(err))
			}
			if got := s.databases(); len(got) != 1 {
				t.Errorf("left: %q", got)
			}
		})
	}
	weak := pgtest.Role(t, s.dsn, "NOCREATEDB")
	if _, err := CheckScratch(t.Context(), ScratchConfig{DSN: weak}); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "may not create databases") || !strings.Contains(problem.HintOf(err), "CREATEDB") {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
	// An ordinary login that may create databases is enough.
	if err := Scratch(t.Context(), mustScratch(t, pgtest.Role(t, s.dsn, "CREATEDB"))); err != nil {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
}

// TestScratchBusy: two at a time would take each other's database for a leftover.
// A restore to the same database is another matter.
func TestScratchBusy(t *testing.T) {
	s := newServer(t)
	first, err := pgserver.OpenScratch(t.Context(), pgserver.DestConfig{DSN: s.dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	n, err := first.CreateScratch(t.Context(), string(testID))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckScratch(t.Context(), ScratchConfig{DSN: s.dsn}); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another verification is at work") {
		t.Error(err)
	}
	if err := Scratch(t.Context(), mustScratch(t, s.in("postgres"))); err != nil {
		t.Error(err)
	}
	for _, name := range []string{s.name, s.name + "_verify"} {
		if _, err := restorePostgres(t.Context(), postgresConfig(s.in(name), t.TempDir(), "", receiptFor(t))); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(s.databases(), " "); !strings.Contains(got, n.Name) {
		t.Errorf("%q is gone: %s", n.Name, got)
	}
	if err := first.Drop(t.Context(), n); err != nil {
		t.Error(err)
	}
}

// TestScratchKilled kills a run at each point; what it leaves, the next one removes
// before it reads the archive. The short form takes the last of each name,
// N8KEEP_SOAK=1 all.
func TestScratchKilled(t *testing.T) {
	s := newServer(t)
	j := job{Do: "scratch", State: t.TempDir(), DSN: s.dsn}
	points := failtest.Points(t, j)
	removed := 0
	for i, point := range points {
		if slices.Contains(points[i+1:], point) && os.Getenv("N8KEEP_SOAK") == "" {
			continue
		}
		failtest.MustKill(t, j, i+1)
		did, err := CheckScratch(t.Context(), ScratchConfig{DSN: s.dsn})
		if err != nil {
			t.Fatalf("killed at %s: %v", point, err)
		}
		if len(did) > 0 {
			removed++
			if want := "which a killed verification had left"; !strings.Contains(did[0], want) {
				t.Errorf("%q, want %q", did, want)
			}
		}
		if got := s.databases(); len(got) != 1 {
			t.Errorf("killed at %s, left: %q", point, got)
		}
	}
	if len(points) < 7 || removed < 6 {
		t.Errorf("%d points, %d leftovers: %q", len(points), removed, points)
	}
	if err := Scratch(t.Context(), mustScratch(t, s.dsn)); err != nil {
		t.Error(err)
	}
	t.Logf("%d points, %d leftovers: %q", len(points), removed, points)
}
