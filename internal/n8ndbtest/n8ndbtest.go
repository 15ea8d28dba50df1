// Package n8ndbtest gives tests databases that real n8n releases wrote, and rows
// for every place of the catalogue.
//
// A fixture is always a copy: the file in the test's own folder, or a database of
// its own on the test's PostgreSQL server. Nothing here skips; a fixture that is
// missing fails the test.
package n8ndbtest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Fixture is one database with its key and what n8n itself says is in it.
type Fixture struct {
	Name   string // "2.41.1-sqlite"
	Dir    string
	Engine n8ndb.Engine
	Key    n8ncrypt.InstanceKey

	N8NVersion  string
	Credentials map[string]string // plaintext JSON by id, from n8n's own export
	// Values are other plaintexts by place and row, written "user.mfaSecret[ROW]".
	Values      map[string]string
	Deployment  map[string]DeploymentKey // by id
	TableCounts map[string]int64
}

// DeploymentKey is a row of deployment_key.
type DeploymentKey struct {
	ID, Type, Value, Algorithm, Status, Plain string
}

// Root is the folder of the module.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("n8ndbtest: no go.mod above the test's folder")
		}
		dir = up
	}
}

// Names are all fixtures, sorted.
func Names(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(Root(t), "testdata", "fixtures", "*", "fixture.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("n8ndbtest: no fixtures: %v", err)
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = filepath.Base(filepath.Dir(f))
	}
	return names
}

// Few are the fixtures of a test's short form, or with N8KEEP_SOAK all of them: one of
// each engine, of each generation of n8n, with data keys in use and without.
func Few(t testing.TB) []string {
	t.Helper()
	if os.Getenv("N8KEEP_SOAK") != "" {
		return Names(t)
	}
	return []string{"2.41.1-sqlite", "1.123.81-sqlite", "2.41.1-postgres-keyrotation"}
}

// Load reads what is known of a fixture.
func Load(t testing.TB, name string) Fixture {
	t.Helper()
	dir := filepath.Join(Root(t), "testdata", "fixtures", name)
	var doc struct {
		N8NVersion    string
		EncryptionKey string
		Credentials   []struct {
			ID        string
			Plaintext json.RawMessage
		}
		OtherEncrypted struct {
			DeploymentKey []struct {
				ID, Type, Value, Algorithm, Status, Plain string
			} `json:"deployment_key"`
			Values map[string]json.RawMessage
		}
		TableCounts map[string]int64
	}
	readJSON(t, filepath.Join(dir, "fixture.json"), &doc)
	key, err := n8ncrypt.NewInstanceKey(doc.EncryptionKey)
	if err != nil {
		t.Fatal(err)
	}
	f := Fixture{Name: name, Dir: dir, Engine: n8ndb.SQLite, Key: key, N8NVersion: doc.N8NVersion,
		Credentials: map[string]string{}, Values: map[string]string{}, Deployment: map[string]DeploymentKey{}, TableCounts: doc.TableCounts}
	if _, err := os.Stat(filepath.Join(dir, "database.dump")); err == nil {
		f.Engine = n8ndb.Postgres
	}
	for _, c := range doc.Credentials {
		f.Credentials[c.ID] = string(c.Plaintext)
	}
	// n8n's own export knows better: some fixtures changed credentials after the list was made.
	var exported []struct {
		ID   string
		Data json.RawMessage
	}
	if path := filepath.Join(dir, "credentials-decrypted.json"); exists(path) {
		readJSON(t, path, &exported)
		for _, c := range exported {
			f.Credentials[c.ID] = string(c.Data)
		}
	}
	for _, d := range doc.OtherEncrypted.DeploymentKey {
		f.Deployment[d.ID] = DeploymentKey(d)
	}
	for id, raw := range doc.OtherEncrypted.Values {
		var one string
		var list []string
		switch {
		case json.Unmarshal(raw, &one) == nil:
			f.Values[id] = one
		case json.Unmarshal(raw, &list) == nil:
			for i, v := range list {
				f.Values[strings.TrimSuffix(id, "]")+"#"+string(rune('0'+i))+"]"] = v
			}
		default:
			t.Fatalf("n8ndbtest: %s: value of %q is neither text nor list", name, id)
		}
	}
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("n8ndbtest: %v", err)
	}
}

// Copy returns the path of a private copy of a SQLite fixture, or the address of a
// private PostgreSQL database restored from one.
func (f Fixture) Copy(t testing.TB) string {
	t.Helper()
	if f.Engine == n8ndb.Postgres {
		return pgtest.Restore(t, filepath.Join(f.Dir, "database.dump"))
	}
	b, err := os.ReadFile(filepath.Join(f.Dir, "database.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	return writeDatabase(t, b)
}

func writeDatabase(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "database.sqlite")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Open opens a copy that Copy made.
func (f Fixture) Open(t testing.TB, location string) *n8ndb.DB {
	t.Helper()
	var db *n8ndb.DB
	var err error
	if f.Engine == n8ndb.Postgres {
		db, err = n8ndb.OpenPostgres(context.Background(), n8ndb.PostgresConfig{DSN: location})
	} else {
		db, err = n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: location})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing %s: %v", f.Name, err)
		}
	})
	return db
}

// Receipt is a valid audit receipt from a log of the test's own.
func Receipt(t testing.TB) audit.Receipt {
	t.Helper()
	log, err := audit.Open(audit.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := log.Begin(context.Background(), "os:test", audit.Event{Command: "census"}, audit.FailClosed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Key is an instance key of the given text.
func Key(t testing.TB, text string) n8ncrypt.InstanceKey {
	t.Helper()
	k, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Reading is what a census told its visitor, with the plaintexts, which no program
// code ever gets to see.
type Reading struct {
	Census     *n8ndb.Census
	Secrets    []n8ndb.Secret
	Plaintexts map[string]string // by "place[row]"
}

// Census runs a census with the visitor and the digest of a Reading, and with a
// receipt of its own if the config has none.
func Census(t testing.TB, db *n8ndb.DB, key n8ncrypt.InstanceKey, cfg n8ndb.CensusConfig) Reading {
	t.Helper()
	ctx := context.Background()
	if !cfg.Receipt.Valid() {
		cfg.Receipt = Receipt(t)
	}
	var err error
	if cfg.Keys, err = db.Keyset(ctx, cfg.Receipt, key); err != nil {
		t.Fatal(err)
	}
	r := Reading{Plaintexts: map[string]string{}}
	cfg.Digest = func(place, row string, plaintext []byte) string {
		r.Plaintexts[place+"["+row+"]"] = string(plaintext)
		return "digest"
	}
	cfg.Visit = func(s n8ndb.Secret) error {
		r.Secrets = append(r.Secrets, s)
		return nil
	}
	if r.Census, err = db.Census(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	return r
}
