package rotate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	newText = "a-new-instance-key-of-40-characters-0123"
	testID  = "20260801T020000Z-prod-k3x7qa"
	oldFP   = n8ncrypt.Fingerprint("n8k1-aaaaaaaaaaaaaaaa")
	newFP   = n8ncrypt.Fingerprint("n8k1-bbbbbbbbbbbbbbbb")
)

func TestMain(m *testing.M) {
	os.Exit(failtest.Main(func() int { return pgtest.Main(m) }, func(j job) error {
		_, err := j.do()
		return err
	}))
}

// job is what another process is to do, and in which world.
type job struct {
	Do      string // "run", "resume", "rollback", "finalise", "give up", "stay"
	Dir     string // of the world
	DSN     string // PostgreSQL; "" for SQLite
	Old     string // the old instance key
	Leak    bool
	Orphan  bool // no Service
	Waiting bool // data of finished executions stays as it is, which is the default
}

func (j job) path(name ...string) string { return filepath.Join(append([]string{j.Dir}, name...)...) }

func (j job) do() (*Result, error) {
	cfg, err := j.config()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	switch j.Do {
	case "run":
		return Run(ctx, cfg)
	case "resume":
		return Resume(ctx, cfg)
	case "rollback":
		return Rollback(ctx, cfg)
	case "give up", "stay": // fail before the commit, which sends n8n back to work
		failed := errors.New("failed by the test")
		cfg.fault = at("preimages-complete 1", func() error { return failed })
		run := Run
		if j.Do == "stay" {
			run = Rollback
		}
		r, err := run(ctx, cfg)
		if errors.Is(err, failed) && (r.Journal.State == Abandoned || r.Journal.State == Verified) {
			err = nil
		}
		return r, err
	case "finalise":
		return Finalise(ctx, cfg, FinaliseHooks{
			Keyring: func(context.Context) error {
				journal, err := Open(j.path("state"), testID)
				if err != nil {
					return err
				}
				if key, err := journal.OldKey(mustKey(newText)); err != nil || !key.Equal(mustKey(j.Old)) {
					return fmt.Errorf("the old key is not in the journal: %w", err)
				}
				return os.WriteFile(j.path("keyring"), []byte("new"), 0o600)
			},
			Backup: func(context.Context) (BackupRef, error) {
				return BackupRef{ID: "fresh", Target: "t", Created: time.Now(), Taken: true}, nil
			},
		})
	}
	return nil, fmt.Errorf("unknown job %q", j.Do)
}

func mustKey(text string) n8ncrypt.InstanceKey {
	k, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

func (j job) config() (Config, error) {
	log, err := audit.Open(audit.Config{Dir: j.path("audit")})
	if err != nil {
		return Config{}, err
	}
	receipt, err := log.Begin(context.Background(), "os:test", audit.Event{Command: "rotate"}, audit.FailClosed)
	if err != nil {
		return Config{}, err
	}
	cfg := Config{
		StateDir: j.path("state"), ID: testID, Instance: "prod", Database: j.path("home", "database.sqlite"), Receipt: receipt,
		Old:     Key{Key: mustKey(j.Old), Path: j.path("old.key"), Fingerprint: oldFP},
		New:     Key{Key: mustKey(newText), Path: j.path("new.key"), Fingerprint: newFP},
		Backup:  func(context.Context) (BackupRef, error) { return BackupRef{ID: "b1", Target: "t", Taken: true}, nil },
		Service: fakeService{j},
		Files:   []n8nhome.KeyFile{n8nhome.PlainKeyFile(j.path("home", "key-file")), n8nhome.ConfigKeyFile(j.path("home"))},
		Storage: j.path("storage"),
		Choices: Choices{Executions: n8ndb.AllExecutions, AfterLeak: j.Leak},
	}
	if j.Orphan {
		cfg.Service = nil
	}
	if j.Waiting {
		cfg.Choices.Executions = n8ndb.Unfinished
	}
	if j.Do != "run" && j.Do != "give up" { // the journal has them
		cfg.Files, cfg.Storage, cfg.Choices = nil, "", Choices{}
	}
	cfg.Read = func(ctx context.Context) (*n8ndb.DB, error) {
		return n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: cfg.Database})
	}
	cfg.Write = func(ctx context.Context) (*n8ndb.Writer, error) {
		if _, err := os.Stat(j.path("running")); err == nil && !j.Orphan {
			return nil, errors.New("the database is opened for writing while n8n runs")
		}
		return n8ndb.WriteSQLite(ctx, n8ndb.SQLiteWriteConfig{Path: cfg.Database, Hold: n8ndb.HoldConfig{AssumeStopped: true}})
	}
	if j.DSN != "" {
		u, err := url.Parse(j.DSN)
		if err != nil {
			return Config{}, err
		}
		cfg.Database = "postgres://" + u.Host + u.Path
		cfg.Read = func(ctx context.Context) (*n8ndb.DB, error) {
			return n8ndb.OpenPostgres(ctx, n8ndb.PostgresConfig{DSN: j.DSN})
		}
		cfg.Write = func(ctx context.Context) (*n8ndb.Writer, error) {
			if _, err := os.Stat(j.path("running")); err == nil && !j.Orphan {
				return nil, errors.New("the database is opened for writing while n8n runs")
			}
			return n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: j.DSN})
		}
	}
	return cfg, nil
}

// fakeService is an n8n that runs while the file "running" is there. It starts only
// with a config that has the key which opens the database.
type fakeService struct{ j job }

func (s fakeService) Stop(context.Context) error {
	if err := os.Remove(s.j.path("running")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s fakeService) Start(ctx context.Context) error {
	key, err := n8nhome.ConfigKeyFile(s.j.path("home")).Key()
	if err != nil {
		return err
	}
	text := "new"
	if key.Equal(mustKey(s.j.Old)) {
		text = "old"
	}
	return os.WriteFile(s.j.path("running"), []byte(text), 0o600)
}

func (s fakeService) Healthy(context.Context) error {
	_, err := os.Stat(s.j.path("running"))
	return err
}

func (s fakeService) String() string { return "a fake n8n" }

// base is a database with a value in every place of the catalogue, from which worlds
// are made.
type base struct {
	t       testing.TB
	f       n8ndbtest.Fixture
	seeded  n8ndbtest.Seeded
	at      string // path or address
	storage map[string]string
	values  map[string]string // plaintexts by place and row, with the key they are under
	plain   map[string]bool   // rows in clear
}

const configText = "{\n\t\"encryptionKey\": \"%s\",\n\t\"tunnelSubdomain\": \"x\"\n}"

func newBase(t *testing.T, fixture string) *base {
	t.Helper()
	b := &base{t: t, f: n8ndbtest.Load(t, fixture)}
	b.at, b.seeded = b.f.CopySeeded(t)
	b.storage = files(t, b.seeded.BundleDir)
	if b.learn(); len(b.values) < 40 {
		t.Fatalf("%d values", len(b.values))
	}
	return b
}

// newPlainBase is a database as n8n has left it.
func newPlainBase(t testing.TB, fixture string) *base {
	t.Helper()
	f := n8ndbtest.Load(t, fixture)
	b := &base{t: t, f: f, at: f.Copy(t), storage: map[string]string{}}
	b.learn()
	return b
}

// learned is what learn has read, by fixture: all copies of one are the same.
var learned sync.Map

// learn reads what is in the database.
func (b *base) learn() {
	t, f := b.t, b.f
	t.Helper()
	name := fmt.Sprint(f.Name, len(b.seeded.Secrets))
	if known, ok := learned.Load(name); ok {
		b.values, b.plain = known.(read).values, known.(read).plain
		return
	}
	db, err := b.open(b.at)
	if err != nil {
		t.Fatal(err)
	}
	r := reading(t, db, f.Key, nil, b.seeded.BundleDir)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b.values, b.plain = r.values, r.plain
	if len(r.closed) > 0 || len(b.values) == 0 {
		t.Fatalf("%d values, %d do not open", len(b.values), len(r.closed))
	}
	learned.Store(name, r)
}

func (b *base) open(at string) (*n8ndb.DB, error) {
	if b.f.Engine == n8ndb.Postgres {
		return n8ndb.OpenPostgres(b.t.Context(), n8ndb.PostgresConfig{DSN: at})
	}
	return n8ndb.OpenSQLite(b.t.Context(), n8ndb.SQLiteConfig{Path: at})
}

var worlds atomic.Int64

// world copies everything into a folder of its own, and returns the job of a run in it.
func (b *base) world(t testing.TB) job {
	t.Helper()
	j := job{Do: "run", Dir: t.TempDir(), Old: b.f.Key.Reveal()}
	for _, dir := range []string{"state", "home", "storage"} {
		if err := os.Mkdir(j.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put := func(path string, content []byte, mode fs.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	put(j.path("home", "config"), fmt.Appendf(nil, configText, j.Old), 0o640)
	put(j.path("home", "key-file"), []byte(j.Old+"\n"), 0o600)
	put(j.path("running"), []byte("old"), 0o600)
	for name, content := range b.storage {
		put(j.path("storage", name), []byte(content), 0o600)
	}
	if b.f.Engine == n8ndb.SQLite {
		content, err := os.ReadFile(b.at)
		if err != nil {
			t.Fatal(err)
		}
		put(j.path("home", "database.sqlite"), content, 0o600)
		return j
	}
	u, err := url.Parse(b.at)
	if err != nil {
		t.Fatal(err)
	}
	template, name := u.Path[1:], fmt.Sprintf("rotate_%d", worlds.Add(1))
	b.admin(t, `CREATE DATABASE `+name+` TEMPLATE `+template+` STRATEGY file_copy`)
	t.Cleanup(func() { b.admin(t, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`) })
	u.Path = "/" + name
	j.DSN = u.String()
	return j
}

func (b *base) admin(t testing.TB, stmt string) {
	t.Helper()
	u, err := url.Parse(b.at)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/postgres"
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(stmt); err != nil {
		t.Fatalf("%s: %v", stmt, err)
	}
}

// exec changes the world's database, as n8n would.
func (b *base) exec(t *testing.T, j job, stmt string, args ...any) {
	t.Helper()
	at := j.DSN
	if at == "" {
		at = j.path("home", "database.sqlite")
	}
	b.f.Exec(t, at, stmt, args...)
}

// read is everything that a database holds.
type read struct {
	values map[string]string // plaintext by place and row
	keys   map[string]string // Secret.KeyRef of those
	plain  map[string]bool
	closed map[string]n8ndb.Problem
}

// reading takes a census of everything under some keys. The plaintext of the legacy
// rows, which is the key, is left out.
func reading(t testing.TB, db *n8ndb.DB, key n8ncrypt.InstanceKey, others []n8ndb.OtherKey, bundles string) read {
	t.Helper()
	return readingOf(t, db, key, others, bundles, n8ndb.AllExecutions)
}

func readingOf(t testing.TB, db *n8ndb.DB, key n8ncrypt.InstanceKey, others []n8ndb.OtherKey, bundles string, scope n8ndb.ExecutionScope) read {
	t.Helper()
	r := read{map[string]string{}, map[string]string{}, map[string]bool{}, map[string]n8ndb.Problem{}}
	receipt := n8ndbtest.Receipt(t)
	keys, err := db.KeysetOf(t.Context(), receipt, key, others...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Census(t.Context(), n8ndb.CensusConfig{Keys: keys, Receipt: receipt, Executions: scope, BundleDir: bundles,
		Digest: func(place, row string, plaintext []byte) string {
			if n8ndb.PlaceID(place) == legacyPlace {
				plaintext = []byte("the key")
			}
			r.values[place+" "+row] = string(plaintext)
			return ""
		},
		Visit: func(s n8ndb.Secret) error {
			id := string(s.Place) + " " + s.Row
			switch {
			case s.Plain:
				r.plain[id] = true
			case s.Opens:
				r.keys[id] = s.KeyRef
			default:
				r.closed[id] = s.Problem
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// holds are the worlds that the checker knows.
type holds string

const (
	oldWorld holds = "old"
	newWorld holds = "new"
)

// check is the invariant checker: every value of a world opens, under exactly one key
// that the journal records, to what it was in the beginning; files, database and
// journal agree; nothing is left lying about.
func (b *base) check(t *testing.T, j job, where string) holds {
	t.Helper()
	journal, err := Open(j.path("state"), testID)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	want, key := oldWorld, j.Old
	switch journal.State {
	case Verified, Finalised:
		want, key = newWorld, newText
	case RolledBack, Abandoned:
	default:
		t.Fatalf("%s: the rotation rests in %q", where, journal.State)
	}
	at := j.DSN
	if at == "" {
		at = j.path("home", "database.sqlite")
	}
	db, err := b.open(at)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	defer db.Close()
	r := reading(t, db, mustKey(key), nil, j.path("storage"))
	b.compare(t, j, where, r, want)

	// Under both keys at once nothing opens with the other one.
	both := reading(t, db, mustKey(j.Old), []n8ndb.OtherKey{{Name: "new", Key: mustKey(newText)}}, j.path("storage"))
	for id, ref := range both.keys {
		if ref == "new" != (want == newWorld) && (ref == "new" || ref == n8ndb.KeyInstance) {
			t.Errorf("%s: %s is under the key %q in the %s world", where, id, ref, want)
		}
	}

	config, err := os.ReadFile(j.path("home", "config"))
	if err != nil || string(config) != fmt.Sprintf(configText, key) {
		t.Errorf("%s: the config is not that of the %s world (%v)", where, want, err)
	}
	plain, err := os.ReadFile(j.path("home", "key-file"))
	if err != nil || string(plain) != key+"\n" {
		t.Errorf("%s: the key file is not that of the %s world (%v)", where, want, err)
	}
	if info, err := os.Stat(j.path("home", "config")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%s: the config has the mode %v (%v)", where, info.Mode(), err)
	}
	if want == oldWorld {
		if diff := cmp.Diff(b.storage, files(t, j.path("storage"))); diff != "" {
			t.Errorf("%s: bundles differ: %s", where, diff)
		}
	}
	if running, err := os.ReadFile(j.path("running")); !j.Orphan && (err != nil || string(running) != string(want)) {
		t.Errorf("%s: n8n runs with the key %q, want %q (%v)", where, running, want, err)
	}
	b.tidy(t, j, where, journal)
	return want
}

func (b *base) compare(t *testing.T, j job, where string, r read, want holds) {
	t.Helper()
	if len(r.closed) > 0 {
		t.Errorf("%s: %d values do not open: %v", where, len(r.closed), slices.Sorted(maps.Keys(r.closed))[0])
	}
	leaked := j.Leak && want == newWorld
	for id, value := range b.values {
		now, ok := r.values[id]
		pinned := strings.HasPrefix(id, "deployment_key[signing.")
		switch {
		case !ok:
			t.Errorf("%s: %s is gone", where, id)
		case leaked && pinned && now == value:
			t.Errorf("%s: %s is what was leaked", where, id)
		case !(leaked && pinned) && now != value:
			t.Errorf("%s: %s has another plaintext", where, id)
		}
	}
	for id := range b.plain {
		if _, wrapped := r.values[id]; !r.plain[id] && !(wrapped && strings.HasPrefix(id, string(legacyPlace))) {
			t.Errorf("%s: %s was in clear and is not", where, id)
		}
	}
	more := len(r.values) - len(b.values)
	if more != 0 && !j.Leak || more > 1 {
		t.Errorf("%s: %d values more than before", where, more)
	}
}

// tidy looks for what should not be there: temporary files, staged ones, keys.
func (b *base) tidy(t *testing.T, j job, where string, journal *Journal) {
	t.Helper()
	secrets := [][]byte{[]byte(j.Old), []byte(newText), []byte("AGE-SECRET-KEY")}
	for _, dir := range []string{"state", "home", "storage"} {
		for name, content := range files(t, j.path(dir)) {
			base := filepath.Base(name)
			if strings.HasPrefix(base, durable.TempPrefix) || strings.Contains(base, ".n8keep-") {
				t.Errorf("%s: %q is left in %q", where, name, dir)
			}
			if dir == "state" && strings.HasSuffix(base, ".age") && journal.State.Ended() {
				t.Errorf("%s: %q is left behind a rotation that is %s", where, name, journal.State)
			}
			for _, s := range secrets {
				if dir == "state" && bytes.Contains([]byte(content), s) {
					t.Errorf("%s: %q holds a key in clear", where, name)
				}
			}
		}
	}
	if journal.Wrapped != nil && journal.State.Ended() {
		t.Errorf("%s: the journal key is left behind a rotation that is %s", where, journal.State)
	}
}

// files are all regular files below a folder, by their path in it.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		found[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// rowsOf is a hash of every value of the catalogue's tables in a world.
func (b *base) rowsOf(t *testing.T, j job) string {
	t.Helper()
	driver, at := "pgx", j.DSN
	if at == "" {
		driver, at = "sqlite", "file:"+j.path("home", "database.sqlite")
	}
	db, err := sql.Open(driver, at)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	columns := map[string][]string{}
	tables := `SELECT count(*) FROM information_schema.columns WHERE table_name = $1 AND column_name = $2`
	if j.DSN == "" {
		tables = `SELECT count(*) FROM pragma_table_info(?1) WHERE name = ?2`
	}
	for _, p := range n8ndb.Catalogue() {
		var there int
		if err := db.QueryRow(tables, p.Table, p.Column).Scan(&there); err != nil {
			t.Fatal(err)
		}
		if there > 0 && !slices.Contains(columns[p.Table], p.Column) {
			columns[p.Table] = append(columns[p.Table], p.Column)
		}
	}
	h := sha256.New()
	n := 0
	for _, table := range slices.Sorted(maps.Keys(columns)) {
		for _, column := range columns[table] {
			rows, err := db.Query(fmt.Sprintf(`SELECT CAST("%s" AS text) FROM "%s" ORDER BY 1`, column, table))
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var text sql.NullString
				if err := rows.Scan(&text); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(h, "%s.%s %d %s\n", table, column, len(text.String), text.String)
				n++
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			rows.Close()
		}
	}
	if n == 0 {
		t.Fatal("no values")
	}
	return hex.EncodeToString(h.Sum(nil))
}
