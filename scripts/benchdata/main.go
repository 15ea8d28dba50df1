// Benchdata makes a large n8n database for benchmarks out of a small one that n8n wrote: it copies a fixture (database and
// config) and adds credentials, encrypted with the fixture's key, and finished executions with their data until the file
// has the wanted size. The same arguments give the same rows; salts and therefore bytes differ.
//
//	go run ./scripts/benchdata -from testdata/fixtures/2.41.1-sqlite -to DIR -mb 50 -credentials 200
//
// With -postgres it fills a PostgreSQL database instead, which is empty or holds the fixture. The password stands in
// PGPASSWORD.
//
//	go run ./scripts/benchdata -from testdata/fixtures/2.41.1-postgres -postgres postgres://USER@HOST/DATABASE -mb 500
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/n8ncrypt"
)

func main() {
	from := flag.String("from", "", "folder of the fixture")
	to := flag.String("to", "", "folder to make")
	mb := flag.Int64("mb", 50, "size of the database in MB of 1,000,000 bytes")
	credentials := flag.Int("credentials", 200, "credentials to add")
	postgres := flag.String("postgres", "", "URL of a database to fill, instead of -to")
	flag.Parse()
	var err error
	if *postgres != "" {
		err = runPostgres(context.Background(), *from, *postgres, *mb*1_000_000, *credentials)
	} else {
		err = run(context.Background(), *from, *to, *mb*1_000_000, *credentials)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchdata:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, from, to string, size int64, credentials int) (err error) {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"config", "database.sqlite"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return err
		}
	}
	key, err := instanceKey(filepath.Join(from, "config"))
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", filepath.Join(to, "database.sqlite")+"?_pragma=journal_mode(wal)&_pragma=synchronous(off)&_pragma=foreign_keys(on)")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	g := newGenerator()
	if err := inTx(ctx, db, func(tx *sql.Tx) error { return g.credentials(ctx, tx, key, credentials) }); err != nil {
		return err
	}
	for {
		if err := inTx(ctx, db, func(tx *sql.Tx) error { return g.executions(ctx, tx, 100) }); err != nil {
			return err
		}
		var bytes int64
		if err := db.QueryRowContext(ctx, `SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`).Scan(&bytes); err != nil {
			return err
		}
		if bytes >= size {
			_, err := db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
			return err
		}
	}
}

func instanceKey(config string) (n8ncrypt.InstanceKey, error) {
	var c struct {
		EncryptionKey string `json:"encryptionKey"`
	}
	b, err := os.ReadFile(config)
	if err != nil {
		return n8ncrypt.InstanceKey{}, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return n8ncrypt.InstanceKey{}, fmt.Errorf("reading %q: %w", config, err)
	}
	return n8ncrypt.NewInstanceKey(c.EncryptionKey)
}

func inTx(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// generator makes rows that compress about as well as real ones: orders with names, prices, ids and free text.
type generator struct {
	rand                *rand.Rand
	now                 time.Time
	first, last, phrase []string
}

func newGenerator() *generator {
	return &generator{
		rand:   rand.New(rand.NewPCG(8, 8)),
		now:    time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC),
		first:  strings.Fields("olga piet wei amara jose ingrid tariq lea noah yuki"),
		last:   strings.Fields("owner jansen chen okafor silva berg aziz martin smith tanaka"),
		phrase: strings.Fields("please deliver before noon gift wrapped call the door second floor invoice to company urgent fragile ask neighbour größe 東京"),
	}
}

func (g *generator) credentials(ctx context.Context, tx *sql.Tx, key n8ncrypt.InstanceKey, n int) error {
	for i := range n {
		value, err := g.secret(key)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO credentials_entity (id, name, type, data) VALUES (?, ?, 'httpHeaderAuth', ?)`,
			g.hex(16), fmt.Sprintf("Bench %d", i), value); err != nil {
			return err
		}
	}
	return nil
}

// secret is a new credential's ciphertext.
func (g *generator) secret(key n8ncrypt.InstanceKey) (string, error) {
	plain, err := json.Marshal(map[string]string{"name": "Authorization", "value": "Bearer " + g.hex(40)})
	if err != nil {
		return "", err
	}
	value, err := key.EncryptCBC(plain)
	if err != nil {
		return "", err
	}
	return value.String(), nil
}

// executions adds n finished ones of the fixture's first workflow.
func (g *generator) executions(ctx context.Context, tx *sql.Tx, n int) error {
	for range n {
		data, err := g.execution()
		if err != nil {
			return err
		}
		started := g.now.Format("2006-01-02 15:04:05.000")
		res, err := tx.ExecContext(ctx, `INSERT INTO execution_entity (workflowId, finished, mode, startedAt, stoppedAt, createdAt, status)
			SELECT id, 1, 'webhook', ?, ?, ?, 'success' FROM workflow_entity ORDER BY id LIMIT 1`, started, started, started)
		if err != nil {
			return err
		}
		id, err := res.LastInsertId()
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO execution_data (executionId, workflowData, data)
			SELECT ?, json_object('id', id, 'name', name, 'nodes', json(nodes), 'connections', json(connections)), ? FROM workflow_entity ORDER BY id LIMIT 1`,
			id, data); err != nil {
			return err
		}
	}
	return nil
}

// execution moves the clock on and returns the data of an execution that began then.
func (g *generator) execution() (string, error) {
	g.now = g.now.Add(time.Duration(1+g.rand.IntN(600)) * time.Second)
	data, err := json.Marshal(flatten(g.runData()))
	return string(data), err
}

func (g *generator) runData() any {
	nodes := map[string]any{}
	for _, name := range []string{"Webhook", "HTTP header auth", "Split", "Filter"} {
		var items []any
		for range 10 + g.rand.IntN(30) {
			items = append(items, map[string]any{"json": g.order(), "pairedItem": map[string]any{"item": 0}})
		}
		nodes[name] = []any{map[string]any{
			"startTime": g.now.UnixMilli(), "executionTime": g.rand.IntN(2000), "executionStatus": "success",
			"data": map[string]any{"main": []any{items}},
		}}
	}
	return map[string]any{
		"version": 1, "startData": map[string]any{},
		"resultData":    map[string]any{"runData": nodes, "lastNodeExecuted": "Filter"},
		"executionData": map[string]any{"contextData": map[string]any{}, "nodeExecutionStack": []any{}, "metadata": map[string]any{}},
	}
}

func (g *generator) order() map[string]any {
	first, last := g.pick(g.first), g.pick(g.last)
	var text string
	for range 4 + g.rand.IntN(20) {
		text += g.pick(g.phrase) + " "
	}
	return map[string]any{
		"id": g.hex(24), "customer": first + " " + last, "email": fmt.Sprintf("%s.%s%d@example.test", first, last, g.rand.IntN(1000)),
		"total": float64(g.rand.IntN(100000)) / 100, "currency": "EUR", "paid": g.rand.IntN(4) > 0, "note": text,
		"created": g.now.Add(-time.Duration(g.rand.IntN(1e6)) * time.Second).Format(time.RFC3339), "url": "https://shop.example.test/orders/" + g.hex(12),
	}
}

func (g *generator) pick(from []string) string { return from[g.rand.IntN(len(from))] }

func (g *generator) hex(n int) string {
	const digits = "0123456789abcdef"
	b := make([]byte, n)
	for i := range b {
		b[i] = digits[g.rand.IntN(16)]
	}
	return string(b)
}

// flatten writes v as n8n stores execution data (the npm package flatted): one array whose first element is v, where every
// object, array and string inside another is replaced by its index in the array, as a string.
func flatten(v any) []any {
	out := []any{nil}
	known := map[string]string{}
	var refer func(v any) any
	fill := func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			m := make(map[string]any, len(v))
			for _, k := range slices.Sorted(maps.Keys(v)) {
				m[k] = refer(v[k])
			}
			return m
		case []any:
			l := make([]any, len(v))
			for i, e := range v {
				l[i] = refer(e)
			}
			return l
		}
		return v
	}
	refer = func(v any) any {
		text, isText := v.(string)
		switch v.(type) {
		case string, map[string]any, []any:
		default:
			return v
		}
		if at, ok := known[text]; isText && ok {
			return at
		}
		at := strconv.Itoa(len(out))
		if isText {
			known[text] = at
		}
		out = append(out, nil)
		i := len(out) - 1
		out[i] = fill(v)
		return at
	}
	out[0] = fill(v)
	return out
}
