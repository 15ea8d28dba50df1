package restore

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestRefusals goes through what NewPlan and Apply refuse; nothing of the folder
// is changed by any.
func TestRefusals(t *testing.T) {
	otherKey := func(c *Config) { c.KeyFingerprint = "n8k1-bbbbbbbbbbbbbbbb" }
	opens := func(id archive.ID) func(*Config) {
		return func(c *Config) {
			otherKey(c)
			c.OtherArchives = func(fp n8ncrypt.Fingerprint) []archive.ID {
				if fp != "n8k1-bbbbbbbbbbbbbbbb" {
					t.Errorf("asked for %s", fp)
				}
				return []archive.ID{id}
			}
		}
	}
	clean := scenarios()[1].make
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string) // nil: an empty folder
		set  func(*Config)
		kind problem.Kind
		text string
		hint string
	}{
		{"wrong key", nil, otherKey, problem.WrongKey,
			`wrong instance key: archive "` + string(testID) + `" was made with n8k1-aaaaaaaaaaaaaaaa, the key given is n8k1-bbbbbbbbbbbbbbbb`, "the key that was in use on 2026-08-01"},
		{"key of an older backup", nil, opens("20250101T000000Z-prod-aaaaaa"), problem.WrongKey,
			`the key of an older backup: it opens "20250101T000000Z-prod-aaaaaa"`, `restore "20250101T000000Z-prod-aaaaaa" with this one`},
		{"key of a newer backup", nil, opens("20270101T000000Z-prod-aaaaaa"), problem.WrongKey,
			`the key of a newer backup: it opens "20270101T000000Z-prod-aaaaaa"`, ""},
		{"no key", nil, func(c *Config) { c.Key = n8ncrypt.InstanceKey{} }, problem.Usage, "no instance key", "--key-file"},
		{"config with another key", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "config"), `{"encryptionKey":"another-key-0123456789"}`)
		}, nil, problem.WrongKey, "has a config with another instance key: there n8k1-", "another folder with --to"},
		{"config that is none", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "config"), `{"encryptionKey":`)
		}, nil, problem.Usage, "is not JSON", "move the file away"},
		{"data", clean, nil, problem.Usage, `holds data: "database.sqlite"`, "--overwrite"},
		{"more data", func(t *testing.T, dir string) {
			clean(t, dir)
			write(t, filepath.Join(dir, "a/b"), "x")
		}, nil, problem.Usage, `holds data: "database.sqlite" and 1 more`, "--overwrite"},
		{"other data", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a/b"), "x") }, nil, problem.Usage, `holds data: "a"`, "--overwrite"},
		{"postgres archive", nil, func(c *Config) { c.Sidecar.Engine = "postgres" }, problem.Usage, "holds a PostgreSQL database, which cannot be restored to a folder", "--to postgres://"},
		{"to a server", nil, func(c *Config) { c.To = "postgres://me:pa55word@db/n8n?sslpassword=pa55word" }, problem.Usage, `cannot be restored to "postgres://db/n8n"`, "--to"},
		{"no folder", nil, func(c *Config) { c.To = "" }, problem.Usage, "no folder to restore to", "--to"},
		{"a file", nil, func(c *Config) { c.To = fixtures + "/2.0.3-sqlite/config" }, problem.Usage, "is not a folder", "--to"},
		{"below a file", nil, func(c *Config) { c.To = fixtures + "/2.0.3-sqlite/config/a" }, problem.Usage, "cannot be made", ""},
		{"a link to nothing", nil, func(c *Config) {
			link := filepath.Join(t.TempDir(), "link")
			os.Symlink("/nowhere/at/all", link)
			c.To = link
		}, problem.Usage, "a symbolic link to nothing", "repair the link"},
		{"a linked database", func(t *testing.T, dir string) {
			os.Symlink("/etc/hostname", filepath.Join(dir, "database.sqlite"))
		}, overwrite, problem.Usage, "is a symbolic link: a new database cannot be renamed over it", "the file itself"},
		{"a linked log", func(t *testing.T, dir string) {
			os.Symlink("/etc/hostname", filepath.Join(dir, "database.sqlite-wal"))
		}, overwrite, problem.Usage, "-wal\" is a symbolic link", ""},
		{"a folder for a database", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "database.sqlite/x"), "") }, overwrite, problem.Usage, "is not a regular file", ""},
		{"a database elsewhere", nil, env("/var/lib/n8n.db"), problem.Usage, `DB_SQLITE_DATABASE says "/var/lib/n8n.db"`, "DB_SQLITE_DATABASE unset"},
		{"a database below", nil, env("data/n8n.db"), problem.Usage, "not a file directly in", ""},
		{"too little space", nil, func(c *Config) { c.PlainSize = 1 << 60 }, problem.Usage, "not enough space in", "another file system"},
		{"too little space for what the sidecar says", nil, func(c *Config) { c.Sidecar.PlainSize = 1 << 60 }, problem.Usage, "not enough space in", "another file system"},
		{"damaged database, n8n not known to be stopped", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "database.sqlite"), "garbage")
		}, func(c *Config) { c.Overwrite, c.AssumeStopped = true, false }, problem.Usage, "because its database cannot be read", "--assume-stopped"},
		{"not in the audit log", nil, func(c *Config) { c.Receipt = audit.Receipt{} }, problem.Unexpected, "not in the audit log", ""},
		{"no way to unpack", nil, func(c *Config) { c.Unpack = nil }, problem.Unexpected, "nothing to unpack", ""},
		{"no id", nil, func(c *Config) { c.Sidecar.ID = "x" }, problem.Unexpected, "planning a restore", ""},
		{"a folder that is a link", func(t *testing.T, dir string) {
			os.Symlink(t.TempDir(), filepath.Join(dir, "nodes"))
		}, overwrite, problem.Usage, `nodes" is a symbolic link: files of the archive would be written where it leads`, "nothing was changed"},
		{"a file where a folder goes", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "nodes"), "x") }, overwrite, problem.Usage, `nodes" is a file, the archive has a folder`, "nothing was changed"},
		{"a folder where a file goes", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "custom/own.js/x"), "x") }, overwrite, problem.Usage, `own.js" is a folder, the archive has a file`, "nothing was changed"},
		{"a journal of the future", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, stagingPrefix+string(testID), journalName), `{"format":3}`)
		}, nil, problem.Damaged, "the journal has format 3, this n8keep knows 2", "nothing of it was touched"},
		{"a journal that leads out", func(t *testing.T, dir string) {
			j := journal{Format: 1, ID: testID, Stage: placing, Moves: []move{{Path: "../../etc/x", Kept: "y"}}}
			b, err := json.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, stagingPrefix+string(testID), journalName), string(b))
		}, nil, problem.Damaged, `names "../../etc/x", which is not below the folder`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), ".n8n")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if c.make != nil {
				c.make(t, dir)
			}
			before := tree(t, dir)
			cfg := config(t, dir)
			if c.set != nil {
				c.set(&cfg)
			}
			_, err := restoreWith(cfg)
			checkProblem(t, err, c.kind, c.text, c.hint)
			if strings.Contains(err.Error()+problem.HintOf(err), "pa55word") {
				t.Error("a password is in the error")
			}
			if after := tree(t, dir); after != before {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

func overwrite(c *Config) { c.Overwrite = true }

func env(database string) func(*Config) {
	return func(c *Config) {
		c.Env = func(name string) (string, bool) { return database, name == "DB_SQLITE_DATABASE" }
	}
}

func TestDatabaseOfAnotherName(t *testing.T) {
	dir := scenarios()[0].build(t)
	cfg := config(t, dir)
	env("n8n.db")(&cfg)
	if _, err := restoreWith(cfg); err != nil {
		t.Fatal(err)
	}
	if rows(t, filepath.Join(dir, "n8n.db")) != rows(t, newFixture+"/database.sqlite") {
		t.Error("not restored")
	}
}

func TestFolderWithConfigIsNoData(t *testing.T) {
	dir := scenarios()[0].build(t)
	write(t, filepath.Join(dir, "config"), "{\n\t\"encryptionKey\": \""+testKey+"\"\n}")
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	report, err := restoreWith(config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if report.Config != ConfigKept {
		t.Errorf("report: %+v", report)
	}
}

func TestLinkedFolderIsFollowed(t *testing.T) {
	dir := scenarios()[1].build(t)
	link := filepath.Join(t.TempDir(), "n8n")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, link)
	cfg.Overwrite = true
	report, err := restoreWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkRestored(t, dir, rows(t, newFixture+"/database.sqlite"))
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 || !strings.HasPrefix(report.Database, dir) {
		t.Errorf("the link is %v, the report says %q", info.Mode(), report.Database)
	}
}

// TestAttached opens the database in another process, in both journal modes.
func TestAttached(t *testing.T) {
	for _, s := range scenarios()[1:3] {
		t.Run(s.name, func(t *testing.T) {
			dir := s.build(t)
			j := newJob(t, dir)
			j.Do = "attach"
			cmd := j.command(t)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "attached\n" {
				t.Fatalf("the other process said %q, %v", line, err)
			}
			old := rows(t, filepath.Join(dir, "database.sqlite"))
			cfg := config(t, dir)
			cfg.Overwrite = true
			_, err = restoreWith(cfg)
			checkProblem(t, err, problem.Busy, "is in use by", "stop n8n")
			if rows(t, filepath.Join(dir, "database.sqlite")) != old {
				t.Error("the database has other rows")
			}
			stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			if _, err = restoreWith(cfg); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestTwoRestoresAtOnce(t *testing.T) {
	dir := scenarios()[1].build(t)
	f, err := openFolder(dir, false, faults{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	cfg := config(t, dir)
	cfg.Overwrite = true
	_, err = restoreWith(cfg)
	checkProblem(t, err, problem.Busy, "another restore is working in this folder", "wait")
}

// TestRights restores as a user who may not: not write, not read, not give away.
func TestRights(t *testing.T) {
	const nobody = 65534
	for _, c := range []struct {
		name string
		mode os.FileMode
		text string
		hint string
	}{
		{"not writable", 0o555, "is not writable", "as the user that owns it"},
		{"not readable", 0o333, "permission denied", "as the user that owns it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, err := os.MkdirTemp("", "n8keep-rights-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(base) })
			if err := os.Chmod(base, 0o755); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(base, ".n8n")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, c.mode); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(dir, 0o700) })
			o := runAs(t, newJob(t, dir), nobody, base)
			if o.Kind != string(problem.Usage) || !strings.Contains(o.Text, c.text) || !strings.Contains(o.Hint, c.hint) {
				t.Errorf("%+v", o)
			}
		})
	}
}

// runAs runs a plan as another user; base is a folder that it may enter. Without
// root the rights bind us as well.
func runAs(t *testing.T, j job, uid int, base string) outcome {
	t.Helper()
	j.Do, j.Uid = "plan", uid
	if os.Geteuid() != 0 {
		return j.run(t)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(base, "test")
	if err := os.WriteFile(binary, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := j.command(t)
	cmd.Path = binary
	cmd.Dir = base
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var o outcome
	if err := json.Unmarshal(out, &o); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return o
}

func TestOwnerNeedsRoot(t *testing.T) {
	base, err := os.MkdirTemp("", "n8keep-owner-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir := filepath.Join(base, ".n8n")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{base, dir} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	j := newJob(t, dir)
	j.Owner = &Owner{4321, 4321}
	o := runAs(t, j, 65534, base)
	if o.Kind != string(problem.Usage) || !strings.Contains(o.Text, "only root can give files to 4321:4321") || !strings.Contains(o.Hint, "without --owner") {
		t.Errorf("%+v", o)
	}
	j.Owner = nil
	o = runAs(t, j, 65534, base)
	if o.Text != "" || os.Geteuid() == 0 && !strings.Contains(strings.Join(o.Warnings, "\n"), "will belong to uid 65534") {
		t.Errorf("%+v", o)
	}
}

// TestMounts binds a file and a folder of the target onto themselves, in a mount
// namespace of its own.
func TestMounts(t *testing.T) {
	for _, c := range []struct{ name, text, hint string }{
		{"database.sqlite", "database.sqlite\" is a mount point of its own", "mount the .n8n folder instead"},
		{"nodes", "nodes\" is a mount point of its own: files of the archive cannot be swapped in there", "unmount it"},
	} {
		dir := scenarios()[3].build(t)
		j := newJob(t, dir)
		j.Overwrite, j.Mount = true, "bind:"+c.name
		o := j.run(t)
		if o.Kind != string(problem.Usage) || !strings.Contains(o.Text, c.text) || !strings.Contains(o.Hint, c.hint) {
			t.Errorf("%+v", o)
		}
		noStaging(t, dir)
	}
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134`: `/a\`, `/a\9`: `/a\9`, "/plain": "/plain"} {
		if got := unescapeMount(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
