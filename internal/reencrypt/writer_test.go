package reencrypt

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// open is a connection as n8n would have one.
func (p *place) open(t testing.TB) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", p.location
	if p.Engine == n8ndb.SQLite {
		driver, dsn = "sqlite", "file:"+p.location+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(1)&_txlock=immediate"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// activeKey is the data key that n8n encrypts with.
func (p *place) activeKey(t testing.TB) n8ncrypt.DataKey {
	t.Helper()
	for id, d := range p.Deployment {
		if d.Type == "data_encryption" && d.Algorithm == "aes-256-gcm" && d.Status == "active" {
			k, err := n8ncrypt.ParseDataKey(id, d.Plain)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
	}
	t.Fatal("the fixture has no active data key")
	return n8ncrypt.DataKey{}
}

// credentials adds n credentials under the instance key, and returns the plaintext of
// each by its id.
func (p *place) credentials(t testing.TB, n int) map[string]string {
	t.Helper()
	db := p.open(t)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	insert, err := tx.Prepare(`INSERT INTO credentials_entity (id, name, type, data, "createdAt", "updatedAt") VALUES ($1, $2, 'httpHeaderAuth', $3, '2026-01-01 00:00:00', '2026-01-01 00:00:00')`)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string, n)
	for i := range n {
		id := fmt.Sprintf("soak%012d", i)
		all[id] = fmt.Sprintf(`{"name":"X-Token","value":"first-%d-%s"}`, i, strings.Repeat("ü", i%50))
		v, err := p.Key.EncryptCBC([]byte(all[id]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := insert.Exec(id, "c"+id, v.String()); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return all
}

// saves is what a writer did.
type saves struct {
	n       int
	newest  map[string]string // plaintext by id
	took    []time.Duration
	elapsed time.Duration
}

// save writes credentials as n8n with its flag on does, perSecond of them, until done
// is closed: a new plaintext under the active data key. Now and then it renames one
// without touching its data.
func (p *place) save(t testing.TB, key n8ncrypt.DataKey, ids []string, perSecond int, done <-chan struct{}) saves {
	db := p.open(t)
	db.SetMaxOpenConns(1)
	s := saves{newest: map[string]string{}}
	random := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for {
		select {
		case <-done:
			s.elapsed = time.Since(began)
			return s
		case <-tick.C:
		}
		id := ids[random.IntN(len(ids))]
		from := time.Now()
		if s.n%5 == 4 {
			if _, err := db.Exec(`UPDATE credentials_entity SET name = $1 WHERE id = $2`, fmt.Sprint("renamed ", s.n), id); err != nil {
				t.Errorf("renaming: %v", err)
				return s
			}
		} else {
			text := fmt.Sprintf(`{"name":"X-Token","value":"saved-%d"}`, s.n)
			v, err := key.Encrypt([]byte(text))
			if err == nil {
				_, err = db.Exec(`UPDATE credentials_entity SET data = $1 WHERE id = $2`, v.String(), id)
			}
			if err != nil {
				t.Errorf("saving: %v", err)
				return s
			}
			s.newest[id] = text
		}
		s.took = append(s.took, time.Since(from))
		s.n++
	}
}

func (s *saves) report(t testing.TB, name string) {
	slices.Sort(s.took)
	t.Logf("%s: %d saves in %v (%.0f/s); median %v, 99th percentile %v, longest %v", name, s.n, s.elapsed.Round(time.Millisecond),
		float64(s.n)/s.elapsed.Seconds(), s.took[len(s.took)/2], s.took[len(s.took)*99/100], s.took[len(s.took)-1])
}

// TestBesideAWriter: while credentials are saved 200 times a second, all of them are
// moved. Nothing that was saved is lost, and nothing reverted to what was before.
func TestBesideAWriter(t *testing.T) {
	t.Parallel()
	n, rate := 1000, 400
	if os.Getenv("N8KEEP_SOAK") == "1" {
		n, rate = 20_000, 0
	}
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			p := copyOf(t, name)
			want := p.credentials(t, n)
			ids := make([]string, 0, n)
			for id := range want {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			key := p.activeKey(t)
			if n > 1000 { // what a save takes without us
				done := make(chan struct{})
				time.AfterFunc(5*time.Second, func() { close(done) })
				alone := p.save(t, key, ids, 200, done)
				for id, text := range alone.newest {
					want[id] = text
				}
				alone.report(t, name+", alone")
			}
			done, finished := make(chan struct{}), make(chan saves)
			go func() { finished <- p.save(t, key, ids, 200, done) }()
			cfg := p.config(t, "active", FlagOn, Runs)
			cfg.RowsPerSecond = rate // long enough for the writer to meet it
			r, err := Run(context.Background(), cfg, nil)
			close(done)
			s := <-finished
			if err != nil || !r.Converged {
				t.Fatalf("%v: %+v", err, r)
			}
			if s.n < 100 {
				t.Fatalf("the writer made only %d changes", s.n)
			}
			for id, text := range s.newest {
				want[id] = text
			}
			after := p.contents(t, n8ndb.NoExecutions)
			for id, text := range want {
				if got := after.plaintexts["credentials_entity.data["+id+"]"]; got != text {
					t.Fatalf("credential %q is %q, want %q", id, got, text)
				}
			}
			if len(after.keys) != 1 || after.unopened != 0 || after.keys[key.ID] != len(after.plaintexts) {
				t.Errorf("keys %v, %d unopened", after.keys, after.unopened)
			}
			s.report(t, name)
			t.Logf("%s: %d values changed, %d rows lost to the writer, in %d passes and %.1f s; longest transaction %.0f ms", name, r.Changed, r.Lost, len(r.Passes), r.Seconds, r.Passes[0].Longest*1000)
		})
	}
}

// TestSavedInBetween: somebody saves a value after it was read and before it is
// written. It is left to the next pass, which does not meet the old one.
func TestSavedInBetween(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			p := copyOf(t, name)
			ids := p.credentials(t, 60)
			db := p.open(t)
			cfg := p.config(t, "active", FlagOn, Runs)
			cfg.BatchRows = 10
			saved := false
			cfg.Attached = func(context.Context) (n8ndb.Attached, error) {
				return n8ndb.Attached{By: []string{"n8n"}}, nil
			}
			// The first batch is committed, the rest of the page was read.
			cfg.betweenBatches = func() {
				if saved {
					return
				}
				saved = true
				v, err := p.Key.EncryptCBC([]byte(`{"saved":"meanwhile"}`))
				if err == nil {
					_, err = db.Exec(`UPDATE credentials_entity SET data = $1 WHERE id = 'soak000000000059'`, v.String())
				}
				if err == nil {
					_, err = db.Exec(`DELETE FROM credentials_entity WHERE id = 'soak000000000058'`)
				}
				if err != nil {
					t.Error(err)
				}
			}
			r := mustRun(t, cfg)
			if r.Lost != 2 || len(r.Passes) != 3 || r.Passes[1].Changed != 1 || r.Passes[2].Changed != 0 {
				t.Errorf("result %+v", r)
			}
			ids["soak000000000059"] = `{"saved":"meanwhile"}`
			delete(ids, "soak000000000058")
			after := p.contents(t, n8ndb.NoExecutions)
			for id, text := range ids {
				if got := after.plaintexts["credentials_entity.data["+id+"]"]; got != text {
					t.Errorf("credential %q is %q, want %q", id, got, text)
				}
			}
			if _, ok := after.plaintexts["credentials_entity.data[soak000000000058]"]; ok {
				t.Error("a deleted credential is back")
			}
		})
	}
}

// TestNoConvergence: an n8n whose flag is not what was said writes under the instance
// key as fast as it is moved away.
func TestNoConvergence(t *testing.T) {
	t.Parallel()
	p := copyOf(t, "2.41.1-sqlite")
	p.credentials(t, 5)
	db := p.open(t)
	cfg := p.config(t, "active", FlagOn, Runs)
	n := 0
	cfg.Attached = func(context.Context) (n8ndb.Attached, error) {
		n++
		v, err := p.Key.EncryptCBC([]byte(fmt.Sprintf(`{"n":%d}`, n)))
		if err == nil {
			_, err = db.Exec(`UPDATE credentials_entity SET data = $1 WHERE id = 'soak000000000001'`, v.String())
		}
		return n8ndb.Attached{By: []string{"n8n"}}, err
	}
	r, err := Run(context.Background(), cfg, nil)
	const want = `after 10 passes, 1 value is not under the data key`
	if problem.KindOf(err) != problem.Partial || !strings.HasPrefix(err.Error(), want) || len(r.Passes) != 10 || r.Left != 1 || r.Converged {
		t.Errorf("%v: %+v", err, r)
	}
}
