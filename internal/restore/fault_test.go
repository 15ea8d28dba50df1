package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

var errInjected = errors.New("injected fault")

// failing counts the changes to the target and fails some of them.
type failing struct {
	from, to int  // numbers of the changes that fail, from 1; to 0: only from
	done     bool // the change is made, but reported as failed
	n        int
	what     string
}

func (f *failing) do(op, name string, change func() error) error {
	f.n++
	if f.n != f.from && (f.n < f.from || f.n > f.to) || f.from == 0 {
		return change()
	}
	f.what = op + " " + name
	if f.done {
		if err := change(); err != nil {
			return err
		}
	}
	return &os.PathError{Op: op, Path: name, Err: errInjected}
}

// TestEveryFault fails every change to the target once: before it is made, after
// it was made, and together with all that follow. A restore that failed has
// changed nothing, or the next run has it undone.
func TestEveryFault(t *testing.T) {
	fresh := rows(t, newFixture+"/database.sqlite")
	for _, s := range scenarios() {
		for _, mode := range []string{"not made", "made", "dead from here"} {
			t.Run(s.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				failed := 0
				for at := 1; ; at++ {
					dir := s.build(t)
					old, before := rows(t, filepath.Join(dir, "database.sqlite")), s.tree(t, dir)
					f := &failing{from: at, done: mode == "made"}
					if mode == "dead from here" {
						f.to = 1 << 30
					}
					cfg := config(t, dir)
					cfg.Overwrite = s.make != nil
					cfg.faults.do = f.do
					_, err := restoreWith(cfg)
					if f.n < at {
						break
					}
					if err != nil {
						failed++
						if !errors.Is(err, errInjected) && !strings.Contains(err.Error(), errInjected.Error()) {
							t.Fatalf("%s failed, but the error is: %v", f.what, err)
						}
						if problem.HintOf(err) == "" {
							t.Errorf("%s failed: no hint with %v", f.what, err)
						}
					}
					if err != nil && mode != "dead from here" {
						noStaging(t, dir)
					}
					if _, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true}); err != nil {
						t.Fatalf("%s failed, and then the recovery: %v", f.what, err)
					}
					noStaging(t, dir)
					now := rows(t, filepath.Join(dir, "database.sqlite"))
					switch {
					case now == fresh && (err == nil || mode == "dead from here"):
						checkRestored(t, dir, fresh)
					case now == old && err != nil:
						if after := s.tree(t, dir); after != before && !emptied(before, after) {
							t.Fatalf("%s failed: before\n%s\nafter\n%s", f.what, before, after)
						}
					default:
						t.Fatalf("%s failed, restore says %v, and the rows are old %v, new %v", f.what, err, now == old, now == fresh)
					}
				}
				if failed < 15 {
					t.Errorf("only %d faults made the restore fail", failed)
				}
			})
		}
	}
}

func TestFailuresOfOthers(t *testing.T) {
	damaged := problem.New(problem.Damaged, "archive %q is damaged: the checksum differs", testID)
	for _, c := range []struct {
		name  string
		set   func(*Config)
		kind  problem.Kind
		text  string
		hint  string
		later bool // after the old database's log was finished
	}{
		{"unpack half-way", func(c *Config) {
			whole := c.Unpack
			c.Unpack = func(ctx context.Context, dir string) (Unpacked, error) {
				whole(ctx, dir)
				return Unpacked{}, damaged
			}
		}, problem.Damaged, "the checksum differs", "", false},
		{"unpack without a kind", func(c *Config) {
			c.Unpack = func(context.Context, string) (Unpacked, error) { return Unpacked{}, syscall.ENOSPC }
		}, problem.Unexpected, `unpacking archive "` + string(testID) + `": no space left on device`, "not enough space", false},
		{"another archive", unpacked(func(u *Unpacked) { u.Manifest.ID = "other" }), problem.Damaged, "is not what its sidecar says", "take another archive", false},
		{"no database", unpacked(func(u *Unpacked) { u.Database = "" }), problem.Damaged, "holds no database", "take another archive", false},
		{"garbage for a database", unpacked(func(u *Unpacked) { os.WriteFile(u.Database, []byte("garbage"), 0o600) }), problem.Damaged, "its database is none", "take another archive", true},
		{"a log beside the database", unpacked(func(u *Unpacked) { os.WriteFile(u.Database+"-wal", []byte("x"), 0o600) }), problem.Damaged, "with a -wal file beside it", "", false},
		{"a path out of the folder", unpacked(func(u *Unpacked) { u.Files[0].Path = "../evil" }), problem.Damaged, `"../evil", which leads out of the folder`, "", false},
		{"an absolute path", unpacked(func(u *Unpacked) { u.Files[0].Path = "/etc/evil" }), problem.Damaged, "leads out of the folder", "", false},
		{"a config in the archive", unpacked(func(u *Unpacked) { u.Files[0].Path = "config" }), problem.Damaged, "not restored from an archive", "", false},
		{"a log in the archive", unpacked(func(u *Unpacked) { u.Files[0].Path = "database.sqlite-wal" }), problem.Damaged, "not restored from an archive", "", false},
		{"a file twice", unpacked(func(u *Unpacked) { u.Files[0].Path = u.Files[1].Path }), problem.Damaged, "twice", "", false},
		{"a file of another size", unpacked(func(u *Unpacked) { u.Files[0].Size++ }), problem.Damaged, "bytes unpacked and", "", false},
		{"a file that is a link", unpacked(func(u *Unpacked) {
			os.Remove(u.Files[0].Staged)
			os.Symlink("/etc/passwd", u.Files[0].Staged)
		}), problem.Damaged, "was not unpacked as a file", "", false},
		{"a file from elsewhere", unpacked(func(u *Unpacked) { u.Files[0].Staged = "/etc/passwd" }), problem.Unexpected, "is not in the staging folder", "", false},
		{"a proof that fails", func(c *Config) {
			c.Prove = func(context.Context, string, archive.Manifest) error {
				return problem.New(problem.Damaged, "6 of 7 secrets open").WithHint("own hint")
			}
		}, problem.Damaged, "did not prove itself where it stands; everything was put back as it was: 6 of 7 secrets open", "own hint", true},
		{"a failed integrity check", func(c *Config) {
			c.faults.integrity = func(context.Context, string) (n8ndb.Integrity, error) {
				return n8ndb.Integrity{Problems: []string{"row 3 missing from index"}}, nil
			}
		}, problem.Damaged, "failed its integrity check in its place: row 3 missing from index", "check the disk", true},
		{"the key interrupt", func(c *Config) {
			c.Unpack = func(context.Context, string) (Unpacked, error) { return Unpacked{}, context.Canceled }
		}, problem.Interrupted, "context canceled", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scenarios()[3]
			dir := s.build(t)
			old, before := rows(t, filepath.Join(dir, "database.sqlite")), tree(t, dir)
			if c.later {
				before = s.tree(t, dir)
			}
			cfg := config(t, dir)
			cfg.Overwrite = true
			c.set(&cfg)
			_, err := restoreWith(cfg)
			checkProblem(t, err, c.kind, c.text, c.hint)
			after := tree(t, dir)
			if c.later {
				after = s.tree(t, dir)
			}
			if after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
			if rows(t, filepath.Join(dir, "database.sqlite")) != old {
				t.Error("the database has other rows than before")
			}
		})
	}
}

// unpacked lets the fixture be unpacked and then changes what came out.
func unpacked(change func(*Unpacked)) func(*Config) {
	return func(c *Config) {
		whole := c.Unpack
		c.Unpack = func(ctx context.Context, dir string) (Unpacked, error) {
			u, err := whole(ctx, dir)
			if err == nil {
				change(&u)
			}
			return u, err
		}
	}
}

func checkProblem(t *testing.T, err error, kind problem.Kind, text, hint string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if problem.KindOf(err) != kind {
		t.Errorf("kind %q, want %q: %v", problem.KindOf(err), kind, err)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not say %q", err, text)
	}
	if !strings.Contains(problem.HintOf(err), hint) {
		t.Errorf("hint %q does not say %q", problem.HintOf(err), hint)
	}
	if strings.Contains(err.Error()+problem.HintOf(err), testKey) {
		t.Error("the instance key is in the error")
	}
}

func TestKnownFlawIsRestored(t *testing.T) {
	dir := scenarios()[0].build(t)
	cfg := config(t, dir)
	cfg.faults.integrity = func(context.Context, string) (n8ndb.Integrity, error) {
		return n8ndb.Integrity{Problems: []string{"row 3 missing from index"}}, nil
	}
	unpacked(func(u *Unpacked) {
		u.Manifest.Findings = []archive.Finding{{Code: "database_integrity"}}
	})(&cfg)
	report, err := restoreWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "as it did when the backup was taken: row 3") {
		t.Errorf("warnings: %q", report.Warnings)
	}
}

func TestFilesThatEarlierRestoresPutAside(t *testing.T) {
	dir := scenarios()[0].build(t)
	cfg := config(t, dir)
	unpacked(func(u *Unpacked) { u.Files[0].Path = ".n8keep-before-x/old.js" })(&cfg)
	report, err := restoreWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if report.Files != 2 || !strings.Contains(strings.Join(report.Warnings, "\n"), "1 files are left out") {
		t.Errorf("report: %+v", report)
	}
}

// TestDiskFull restores into a file system that is too small, in a mount
// namespace of its own.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	j := newJob(t, dir)
	j.Overwrite, j.Mount = true, "tmpfs:1200k"
	o := j.run(t)
	if o.Kind != string(problem.Unexpected) || !strings.Contains(o.Text, "no space left on device") || !strings.Contains(o.Hint, "not enough space in") {
		t.Errorf("%+v", o)
	}
	if !o.Unchanged {
		t.Error("the folder was changed")
	}
}
