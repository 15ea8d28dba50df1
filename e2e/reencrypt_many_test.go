//go:build e2e

package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestReencryptMany takes 20,000 credentials under the active data key, and back again, while somebody saves credentials
// through n8n as fast as it goes, and somebody else does 200 a second past it: one n8n process cannot do that many. In the
// middle of the way there n8n gets another data key.
func TestReencryptMany(t *testing.T) {
	if os.Getenv("N8KEEP_SOAK") == "" {
		return // TestReencrypt has few credentials and one writer
	}
	for _, v := range versions() {
		for _, p := range []place{{version: v, dataKeys: true}, {version: v, dataKeys: true, postgres: true}} {
			if p.cliReads() {
				t.Run(p.name(), func(t *testing.T) { manyStory(t, p) })
			}
		}
	}
}

func manyStory(t *testing.T, p place) {
	const many, writers, perSecond = 20_000, 16, 200
	h, l := begin(t, p)
	r := newRotator(t, h, l)
	var creds, through, past []labn8n.Credential // every fourth is saved through n8n, the others past it
	want := map[string]any{}                     // by id, what n8n or the database acknowledged last
	for i := range many {
		cred := labn8n.Credential{ID: fmt.Sprintf("labMany%09d", i), Name: fmt.Sprintf("Many %d", i), Type: "httpHeaderAuth", Data: manyData("first", i)}
		creds = append(creds, cred)
		want[cred.ID] = cred.Data
		if i%4 == 0 {
			through = append(through, cred)
		} else {
			past = append(past, cred)
		}
	}
	l.in.ImportCredentials(t, l.facts, creds...)

	for _, to := range []string{"active", "legacy"} {
		if to == "legacy" {
			h.byUser(t, "stop")
			h.set(dataKeysOff)
			r.env = []string{dataKeysOff}
			h.byUser(t, "start")
		}
		main, _ := h.servers(t)
		n8n, beside := newSwarm(), newSwarm()
		for k := range writers { // no two writers have the same
			c := main.Client(t, l.facts.APIKey)
			n8n.run(t, ownOf(through, k, writers), 0, to, c.PatchCredential)
		}
		beside.run(t, past, perSecond, to, newRawWriter(t, l, to == "active").save)
		n8n.await(t, writers)
		another := make(chan dataKeyMade, 1)
		if to == "active" {
			db := openRaw(t, l)
			go func() { another <- anotherKey(t.Context(), r, db) }()
		}
		var done api.Reencryption
		decode(t, r.run(t, 0, slices.Concat([]string{"reencrypt"}, r.source, []string{"--to", to, "--yes", "--json"})...), &done)
		if to == "active" {
			made := <-another
			if made.err != nil {
				t.Fatalf("another data key: %v", made.err)
			}
			if id := made.id; id != done.To || !slices.ContainsFunc(done.Warnings, func(w string) bool { return strings.Contains(w, id) }) {
				t.Errorf("n8n's key became %q meanwhile; encrypted to %q, warnings %q", id, done.To, done.Warnings)
			}
		}
		rate, longest := n8n.stop(t, want)
		rawRate, rawLongest := beside.stop(t, want)
		if done.Changed < many/2 || done.Left != 0 || done.Unopened != 0 {
			t.Errorf("encrypted to %s: %+v", to, done)
		}
		t.Logf("to %s: %d values in %.1f s, %d rows saved by others first, %d passes; %.0f saves a second through n8n (longest %v) and %.0f past it (longest %v)",
			to, done.Changed, done.Seconds, done.Lost, len(done.Passes), rate, longest, rawRate, rawLongest)
		if rawRate < 0.9*perSecond {
			t.Errorf("the writer beside n8n made %.0f updates a second, want %d", rawRate, perSecond)
		}

		if to == "active" { // whoever had kept the old key in memory has written with it for five seconds
			var rest api.Reencryption
			decode(t, r.run(t, 0, slices.Concat([]string{"reencrypt"}, r.source, []string{"--to", to, "--yes", "--json"})...), &rest)
			if rest.To != done.To || rest.Changed > 5*perSecond {
				t.Errorf("encrypted to %s once more: %+v", to, rest)
			}
		}
		now := l.in.ExportCredentials(t)
		got := map[string]any{}
		for _, cred := range creds {
			got[cred.ID] = now[cred.ID]["data"]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("credentials after %s (-acknowledged +exported):\n%s", to, diff)
		}
		for _, k := range r.dataKeys(t).Keys {
			if !k.Legacy && (k.ID == done.To) != (k.Values > 0) {
				t.Errorf("after %s, data key %s has %d values", to, k.ID, k.Values)
			}
		}
	}
}

type dataKeyMade struct {
	id  string
	err error
}

// anotherKey has n8n make a data key as soon as a good part is under the one that is active now.
func anotherKey(ctx context.Context, r *rotator, db *sql.DB) (made dataKeyMade) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var moved int
		if made.err = db.QueryRowContext(ctx, `SELECT count(*) FROM credentials_entity WHERE id LIKE 'labMany%' AND data LIKE '%:%'`).Scan(&moved); made.err != nil {
			return made
		}
		if moved > 5000 {
			made.id, made.err = r.l.live.Session.RotateDataKey(ctx)
			return made
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			made.err = ctx.Err()
			return made
		}
	}
}

func manyData(what string, n int) map[string]any {
	return map[string]any{"name": "X-Many", "value": fmt.Sprintf("many-%s-%09d", what, n)}
}

// ownOf are those of the k-th of n writers.
func ownOf(creds []labn8n.Credential, k, n int) (own []labn8n.Credential) {
	for i := k; i < len(creds); i += n {
		own = append(own, creds[i])
	}
	return own
}

// swarm are writers that save credentials of their own, each one after the other, with rising numbers.
type swarm struct {
	finish chan struct{}
	all    sync.WaitGroup
	began  time.Time
	made   *counter

	mu           sync.Mutex
	saves        int64
	longest      time.Duration
	acknowledged map[string]any
	err          error
}

func newSwarm() *swarm {
	return &swarm{finish: make(chan struct{}), began: time.Now(), made: newCounter(), acknowledged: map[string]any{}}
}

// run begins a writer that saves the credentials all over the table, perSecond of them, or with 0 as fast as it goes.
func (w *swarm) run(t *testing.T, creds []labn8n.Credential, perSecond int, what string, save func(context.Context, labn8n.Credential) error) {
	t.Helper()
	ctx := t.Context()
	w.all.Go(func() {
		due := time.NewTimer(0)
		defer due.Stop()
		for n := 0; ; n++ {
			if perSecond > 0 {
				due.Reset(time.Until(w.began.Add(time.Duration(n) * time.Second / time.Duration(perSecond))))
			} else {
				due.Reset(0)
			}
			select {
			case <-w.finish:
				return
			case <-due.C:
			}
			cred := creds[n*7919%len(creds)]
			cred.Data = manyData(what, n)
			from := time.Now()
			err := save(ctx, cred)
			w.note(cred, time.Since(from), err)
			if err != nil {
				return
			}
		}
	})
}

func (w *swarm) note(cred labn8n.Credential, took time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = fmt.Errorf("saving %s: %w", cred.ID, err)
		return
	}
	w.acknowledged[cred.ID] = cred.Data
	w.longest = max(w.longest, took)
	w.saves++
	w.made.set(w.saves)
}

// await returns when n were saved.
func (w *swarm) await(t *testing.T, n int64) {
	t.Helper()
	labn8n.Eventually(t, "writers", func() (bool, error) {
		got, _ := w.made.get()
		return got >= n, fmt.Errorf("%d saves", got)
	})
}

// stop lets every writer finish what it has begun, notes what it wrote, and says how many saves a second there were.
func (w *swarm) stop(t *testing.T, want map[string]any) (rate float64, longest time.Duration) {
	t.Helper()
	close(w.finish)
	w.all.Wait()
	if w.err != nil {
		t.Errorf("a writer ended: %v", w.err)
	}
	maps.Copy(want, w.acknowledged)
	return float64(w.saves) / time.Since(w.began).Seconds(), w.longest.Round(time.Millisecond)
}

// rawWriter saves credentials in n8n's database as n8n does: its statement, and the key that it would take at that moment.
type rawWriter struct {
	db       *sql.DB
	key      n8ncrypt.InstanceKey
	dataKeys bool

	active n8ncrypt.DataKey // n8n keeps it for five seconds
	read   time.Time
}

func newRawWriter(t *testing.T, l *life, dataKeys bool) *rawWriter {
	t.Helper()
	key, err := n8ncrypt.NewInstanceKey(l.in.Key(t))
	if err != nil {
		t.Fatal(err)
	}
	return &rawWriter{db: openRaw(t, l), key: key, dataKeys: dataKeys}
}

// openRaw is a connection to n8n's database as n8n has one.
func openRaw(t *testing.T, l *life) *sql.DB {
	t.Helper()
	driver, dsn := "sqlite", "file:"+filepath.Join(l.in.Dir(), "database.sqlite")+"?_pragma=busy_timeout(5000)&_pragma=synchronous(1)"
	if l.place.postgres {
		driver, dsn = "pgx", l.db.dsn
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	return db
}

func (w *rawWriter) save(ctx context.Context, cred labn8n.Credential) error {
	plain := fmt.Sprintf(`{"name":%q,"value":%q}`, cred.Data["name"], cred.Data["value"])
	value, err := w.seal(ctx, []byte(plain))
	if err != nil {
		return err
	}
	done, err := w.db.ExecContext(ctx, `UPDATE credentials_entity SET name = $1, type = $2, data = $3, "updatedAt" = $4 WHERE id IN ($5)`,
		cred.Name, cred.Type, value, time.Now().UTC().Format("2006-01-02 15:04:05.000"), cred.ID)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("%d rows (%v), want 1", n, err)
	}
	return nil
}

func (w *rawWriter) seal(ctx context.Context, plain []byte) (string, error) {
	if !w.dataKeys {
		v, err := w.key.EncryptCBC(plain)
		return v.String(), err
	}
	if time.Since(w.read) > 5*time.Second {
		var id, stored string
		const active = `SELECT id, value FROM deployment_key WHERE type = 'data_encryption' AND status = 'active'`
		if err := w.db.QueryRowContext(ctx, active).Scan(&id, &stored); err != nil {
			return "", err
		}
		var err error
		if w.active, _, err = n8ncrypt.UnwrapDataKey(w.key, id, stored); err != nil {
			return "", err
		}
		w.read = time.Now()
	}
	v, err := w.active.Encrypt(plain)
	return v.String(), err
}
