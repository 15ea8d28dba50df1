package restore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	fixtures   = "../../testdata/fixtures"
	newFixture = fixtures + "/2.0.3-sqlite"          // what the archive holds, with a WAL header
	oldFixture = fixtures + "/1.123.81-sqlite"       // a clean old database, rollback journal
	hotFixture = fixtures + "/2.41.1-sqlite/raw-hot" // an old database with most rows in its log

	testID  = archive.ID("20260801T020000Z-prod-k3x7qa")
	testKey = "lab-key-restored-0123456789abcdef"
	testFP  = n8ncrypt.Fingerprint("n8k1-aaaaaaaaaaaaaaaa")
)

func TestMain(m *testing.M) {
	os.Exit(failtest.Main(func() int { return pgtest.Main(m) }, job.tell))
}

// job is what another process is to do.
type job struct {
	Do        string // "restore", "plan", "recover", "attach"
	To        string
	Fixtures  string // absolute newFixture
	State     string // folder of the audit log
	Overwrite bool
	Mount     string // "tmpfs:SIZE" at To, "bind:NAME" in To on itself
	Uid       int    // not 0: become it
	FailProve bool
	Owner     *Owner
	DSN       string // "postgres": the database to restore to, with To for the files and State for the rest
}

// outcome is what it says about it.
type outcome struct {
	Kind, Text, Hint string
	Report           Report
	Recovery         Recovery
	Warnings         []string
	Unchanged        bool // with tmpfs: the tree is what it was
}

func (j job) do() (o outcome) {
	fail := func(err error) outcome {
		o.Kind, o.Text, o.Hint = string(problem.KindOf(err)), err.Error(), problem.HintOf(err)
		return o
	}
	if err := j.surroundings(); err != nil {
		return fail(fmt.Errorf("preparing the test: %w", err))
	}
	ctx := context.Background()
	switch j.Do {
	case "recover":
		r, err := Recover(ctx, RecoverConfig{To: j.To, AssumeStopped: true})
		if o.Recovery = r; err != nil {
			return fail(err)
		}
	case "plan":
		cfg := baseConfig(j.To, j.Fixtures, audit.Receipt{})
		cfg.DryRun, cfg.Owner = true, j.Owner
		p, err := NewPlan(ctx, cfg)
		if err != nil {
			return fail(err)
		}
		o.Warnings = p.Warnings
	case "restore":
		log, err := audit.Open(audit.Config{Dir: j.State})
		if err != nil {
			return fail(err)
		}
		receipt, err := log.Begin(ctx, "os:test", audit.Event{Command: "restore"}, audit.FailClosed)
		if err != nil {
			return fail(err)
		}
		cfg := baseConfig(j.To, j.Fixtures, receipt)
		cfg.Overwrite = j.Overwrite
		if j.FailProve {
			cfg.Prove = func(context.Context, string, archive.Manifest) error {
				return problem.New(problem.Damaged, "one secret less")
			}
		}
		before, err := treeOf(j.To)
		if err != nil {
			return fail(err)
		}
		o.Report, err = restoreWith(cfg)
		after, terr := treeOf(j.To)
		if terr != nil {
			return fail(terr)
		}
		o.Unchanged = before == after
		if err != nil {
			return fail(err)
		}
	case "postgres":
		if err := j.restorePostgres(ctx); err != nil {
			return fail(err)
		}
	case "scratch":
		if err := j.scratch(ctx); err != nil {
			return fail(err)
		}
	case "attach":
		db, err := sql.Open("sqlite", filepath.Join(j.To, "database.sqlite"))
		if err != nil {
			return fail(err)
		}
		if _, err := db.Exec("SELECT count(*) FROM sqlite_schema"); err != nil {
			return fail(err)
		}
		fmt.Println("attached")
		io.Copy(io.Discard, os.Stdin)
	}
	return o
}

// tell prints the outcome.
func (j job) tell() error {
	o := j.do()
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return err
	}
	if o.Text != "" && j.DSN != "" { // nobody reads it
		return errors.New(o.Text)
	}
	return nil
}

// surroundings makes the world that the job wants.
func (j job) surroundings() error {
	kind, arg, _ := strings.Cut(j.Mount, ":")
	switch kind {
	case "tmpfs":
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := syscall.Mount("tmpfs", j.To, "tmpfs", 0, "size="+arg); err != nil {
			return err
		}
		if err := copyTree(oldFixture, j.To, "database.sqlite"); err != nil {
			return err
		}
	case "bind":
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return err
		}
		on := filepath.Join(j.To, arg)
		if err := syscall.Mount(on, on, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// command does a job in another process, without failpoints.
func (j job) command(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := failtest.Command(t, j)
	cmd.Stderr = os.Stderr
	if j.Uid != 0 && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(j.Uid), Gid: uint32(j.Uid)}}
	}
	if j.Mount != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	}
	return cmd
}

func (j job) run(t *testing.T) outcome {
	t.Helper()
	out, err := j.command(t).Output()
	if err != nil {
		t.Fatalf("job %s: %v", j.Do, err)
	}
	var o outcome
	if err := json.Unmarshal(out, &o); err != nil {
		t.Fatalf("job %s said %q: %v", j.Do, out, err)
	}
	if strings.HasPrefix(o.Text, "preparing the test") {
		t.Fatal(o.Text)
	}
	return o
}

func newJob(t *testing.T, to string) job {
	t.Helper()
	abs, err := filepath.Abs(newFixture)
	if err != nil {
		t.Fatal(err)
	}
	return job{Do: "restore", To: to, Fixtures: abs, State: t.TempDir()}
}

func receipt(t *testing.T) audit.Receipt {
	t.Helper()
	log, err := audit.Open(audit.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := log.Begin(t.Context(), "os:test", audit.Event{Command: "restore"}, audit.FailClosed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func config(t *testing.T, to string) Config {
	t.Helper()
	return baseConfig(to, newFixture, receipt(t))
}

// baseConfig restores the new fixture and three files. The processes of the
// machine that runs the test may be hidden from it, hence AssumeStopped.
func baseConfig(to, fixture string, r audit.Receipt) Config {
	key, err := n8ncrypt.NewInstanceKey(testKey)
	if err != nil {
		panic(err)
	}
	s := archive.Sidecar{Format: 1, ID: testID, Instance: "prod", State: archive.StateGood, Engine: "sqlite", N8NVersion: "2.0.3",
		KeyFingerprint: string(testFP), Size: 100_000, Secrets: 7, SecretsOpened: 7}
	return Config{Sidecar: s, Unpack: unpackFixture(s, fixture), To: to, Key: key, KeyFingerprint: testFP, AssumeStopped: true, Receipt: r}
}

func archiveFiles() map[string]string {
	return map[string]string{
		"nodes/package.json":                  `{"name":"installed-nodes","private":true}`,
		"nodes/node_modules/n8n-nodes-x/a.js": "module.exports = 'restored'",
		"custom/own.js":                       "restored",
	}
}

var fileTime = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// unpackFixture stands for the decryption of an archive.
func unpackFixture(s archive.Sidecar, fixture string) UnpackFunc {
	return func(ctx context.Context, dir string) (Unpacked, error) {
		u := Unpacked{SecretsOpened: 7, Database: filepath.Join(dir, "database", "database.sqlite"),
			Manifest: archive.Manifest{ID: s.ID, Engine: s.Engine, KeyFingerprint: s.KeyFingerprint, N8NVersion: s.N8NVersion, State: s.State}}
		b, err := os.ReadFile(filepath.Join(fixture, "database.sqlite"))
		if err != nil {
			return u, err
		}
		if err := os.Mkdir(filepath.Join(dir, "database"), 0o700); err != nil {
			return u, err
		}
		f, err := os.OpenFile(u.Database, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return u, err
		}
		defer f.Close()
		for _, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
			if _, err := f.Write(part); err != nil {
				return u, err
			}
			failpoint.Hit("test.unpack")
		}
		for name, text := range archiveFiles() {
			path := filepath.Join(dir, "files", filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return u, err
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return u, err
			}
			u.Files = append(u.Files, File{Path: name, Staged: path, Mode: 0o640, ModTime: fileTime, Size: int64(len(text))})
		}
		failpoint.Hit("test.unpack")
		return u, nil
	}
}

func restoreWith(cfg Config) (Report, error) {
	p, err := NewPlan(context.Background(), cfg)
	if err != nil {
		return Report{}, err
	}
	return p.Apply(context.Background())
}

// known remembers what SQLite said about files of the same bytes: thousands of
// databases are looked at, and few differ.
var known sync.Map

// rows is what a database says when SQLite reads it, log included, in a copy;
// "" when there is none.
func rows(t *testing.T, path string) string {
	t.Helper()
	files := map[string][]byte{}
	key := sha256.New()
	for _, suffix := range []string{"", "-wal", "-journal"} {
		b, err := os.ReadFile(path + suffix)
		if os.IsNotExist(err) {
			if suffix == "" {
				return ""
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		files[suffix] = b
		fmt.Fprintf(key, "%s %d\n", suffix, len(b))
		key.Write(b)
	}
	name := hex.EncodeToString(key.Sum(nil))
	if said, ok := known.Load(name); ok {
		return said.(string)
	}
	dir := t.TempDir()
	for suffix, b := range files {
		if err := os.WriteFile(filepath.Join(dir, "copy.sqlite"+suffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := ask(t, filepath.Join(dir, "copy.sqlite"))
	known.Store(name, said)
	return said
}

// ask checks a database and hashes its credentials and workflows.
func ask(t *testing.T, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	h := sha256.New()
	n := 0
	for _, query := range []string{"PRAGMA integrity_check", "SELECT id || name || data FROM credentials_entity ORDER BY id", "SELECT id || name || nodes FROM workflow_entity ORDER BY id"} {
		result, err := db.Query(query)
		if err != nil {
			t.Fatalf("reading %q: %v", path, err)
		}
		for result.Next() {
			var text string
			if err := result.Scan(&text); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(query, "PRAGMA") && text != "ok" {
				t.Fatalf("%q is damaged: %s", path, text)
			}
			io.WriteString(h, text+"\n")
			n++
		}
		if err := result.Err(); err != nil {
			t.Fatal(err)
		}
		result.Close()
	}
	if n < 3 {
		t.Fatalf("%q has no rows", path)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// treeOf lists everything below dir with mode, size, time and content; names of
// skip are left out. A missing dir is "".
func treeOf(dir string, skip ...string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		for _, s := range skip {
			if name == s {
				return nil
			}
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d", name, info.Mode(), st.Uid, st.Gid)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %d %x", info.ModTime().UnixNano(), st.Nlink, sha256.Sum256(content))
		}
		b.WriteByte('\n')
		return nil
	})
	if os.IsNotExist(err) {
		return "", nil
	}
	return b.String(), err
}

func tree(t *testing.T, dir string, skip ...string) string {
	t.Helper()
	s, err := treeOf(dir, skip...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func copyTree(from, to string, names ...string) error {
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// scenario is a target folder before a restore.
type scenario struct {
	name string
	make func(t *testing.T, dir string) // nil: the folder is missing
	hot  bool                           // its database has a log: bytes change, rows do not
}

func scenarios() []scenario {
	copied := func(from string, names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := copyTree(from, dir, names...); err != nil {
				t.Fatal(err)
			}
		}
	}
	hot := copied(hotFixture, "database.sqlite", "database.sqlite-wal", "database.sqlite-shm")
	return []scenario{
		{name: "new folder"},
		{name: "clean database", make: copied(oldFixture, "database.sqlite")},
		{name: "hot wal", make: hot, hot: true},
		{name: "other files", hot: true, make: func(t *testing.T, dir string) {
			hot(t, dir)
			write(t, filepath.Join(dir, "nodes/package.json"), `{"old":true}`)
			write(t, filepath.Join(dir, "nodes/node_modules/old/index.js"), "old")
			write(t, filepath.Join(dir, "binaryData/1"), "binary")
			write(t, filepath.Join(dir, "config"), "{\n\t\"encryptionKey\": \""+testKey+"\"\n}")
		}},
		{name: "log without database", make: func(t *testing.T, dir string) {
			if err := copyTree(hotFixture, dir, "database.sqlite-wal"); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

// build makes the folder of a scenario and returns it.
func (s scenario) build(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "home", ".n8n")
	if s.make != nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.make(t, dir)
	}
	return dir
}

// leftovers fails the test when anything of a restore is still in the folder.
func noStaging(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagingPrefix) || strings.HasPrefix(e.Name(), ".n8keep-tmp-") {
			t.Errorf("%q was left behind", e.Name())
		}
	}
}

func ownerOf(t *testing.T, path string) Owner {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return Owner{int(st.Uid), int(st.Gid)}
}
