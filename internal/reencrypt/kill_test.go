package reencrypt

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	killLocation = "REENCRYPT_TEST_DATABASE"
	killKey      = "REENCRYPT_TEST_KEY"
	killStorage  = "REENCRYPT_TEST_STORAGE"
	killState    = "REENCRYPT_TEST_STATE"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if os.Getenv(killLocation) == "" {
		os.Exit(pgtest.Main(m))
	}
	if err := killed(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// killed moves everything to the active key, in small transactions.
func killed() error {
	ctx, location := context.Background(), os.Getenv(killLocation)
	key, err := n8ncrypt.NewInstanceKey(os.Getenv(killKey))
	if err != nil {
		return err
	}
	log, err := audit.Open(audit.Config{Dir: os.Getenv(killState)})
	if err != nil {
		return err
	}
	receipt, err := log.Begin(ctx, "os:test", audit.Event{Command: "reencrypt"}, audit.FailClosed)
	if err != nil {
		return err
	}
	var db *n8ndb.Swapper
	if strings.HasPrefix(location, "postgres") {
		db, err = n8ndb.SwapPostgres(ctx, n8ndb.SwapPostgresConfig{DSN: location})
	} else {
		db, err = n8ndb.SwapSQLite(ctx, n8ndb.SwapSQLiteConfig{Path: location})
	}
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = Run(ctx, Config{DB: db, Key: key, Receipt: receipt, To: Target{word: "active"}, Flag: FlagOn, Storage: os.Getenv(killStorage), BatchRows: 8,
		Attached: func(context.Context) (n8ndb.Attached, error) { return n8ndb.Attached{}, nil }}, nil)
	return err
}

// TestKilledAnywhere kills a run at each point. Every value opens afterwards to what it
// was, and a second run ends what the first has begun.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "killed.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			run := func(p *place, mode string) error {
				cmd := exec.Command(binary)
				cmd.Env = append(os.Environ(), killLocation+"="+p.location, killKey+"="+p.Key.Reveal(), killStorage+"="+p.storage,
					killState+"="+t.TempDir(), "N8KEEP_FAILPOINT="+mode)
				out, err := cmd.CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				return err
			}
			fresh := once(t, name)
			list := filepath.Join(t.TempDir(), "points")
			if err := run(fresh(), "list:"+list); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			points := strings.Split(strings.TrimSpace(string(b)), "\n")
			for _, want := range []string{"n8ndb.swap.begin", "n8ndb.swap.written", "n8ndb.swap.committed", "reencrypt.bundle.written"} {
				if !strings.Contains(string(b), want) && !(isPostgres(name) && want == "reencrypt.bundle.written") {
					t.Errorf("point %q is never passed", want)
				}
			}
			step := 1
			if os.Getenv("N8KEEP_SOAK") != "1" {
				step = max(1, len(points)/6)
				if isPostgres(name) {
					step = max(1, len(points)/2) // making a database takes a second
				}
			}
			for i := 0; i < len(points); i += step {
				p := fresh()
				before := p.contents(t, n8ndb.Unfinished)
				if err := run(p, fmt.Sprintf("kill:%d", i+1)); err == nil || !strings.Contains(err.Error(), syscall.SIGKILL.String()) {
					t.Fatalf("%s: not killed: %v", points[i], err)
				}
				same(t, before, p.contents(t, n8ndb.Unfinished))
				r := mustRun(t, p.config(t, "active", FlagOn, Stopped))
				after := p.contents(t, n8ndb.Unfinished)
				same(t, before, after)
				if len(after.keys) != 1 || after.keys[r.KeyID] == 0 {
					t.Errorf("%s: keys %v", points[i], after.keys)
				}
			}
			t.Logf("%s: %d points", name, len(points))
		})
	}
}

// once makes a fixture that is quickly made again: on SQLite with values in every place
// and a file, on PostgreSQL with a few credentials more.
func once(t *testing.T, name string) func() *place {
	if isPostgres(name) {
		return func() *place {
			p := copyOf(t, name)
			p.credentials(t, 40)
			return p
		}
	}
	first := seeded(t, name)
	return func() *place {
		p := *first
		dir := t.TempDir()
		b, err := os.ReadFile(first.location)
		if err != nil {
			t.Fatal(err)
		}
		p.location, p.storage = filepath.Join(dir, "database.sqlite"), filepath.Join(dir, "storage")
		if err := os.WriteFile(p.location, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(p.storage, os.DirFS(first.storage)); err != nil {
			t.Fatal(err)
		}
		return &p
	}
}
