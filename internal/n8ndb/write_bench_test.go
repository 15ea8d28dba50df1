package n8ndb_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
)

// fill adds credentials of about 300 bytes each, under the fixture's key.
func fill(b testing.TB, f n8ndbtest.Fixture, location string, n int) {
	b.Helper()
	row := func(i int) (id, data string) {
		v, err := f.Key.EncryptCBC(fmt.Appendf(nil, `{"clientId":"client-%d","clientSecret":"%s","oauthTokenData":{"access_token":"%s"}}`, i, strings.Repeat("s", 40), strings.Repeat("t", 120)))
		if err != nil {
			b.Fatal(err)
		}
		return fmt.Sprintf("bench%011d", i), v.String()
	}
	if f.Engine == n8ndb.Postgres {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, location)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(ctx)
		_, err = conn.CopyFrom(ctx, pgx.Identifier{"credentials_entity"}, []string{"id", "name", "type", "data"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			id, data := row(i)
			return []any{id, "bench", "oAuth2Api", data}, nil
		}))
		if err == nil {
			_, err = conn.Exec(ctx, "ANALYZE credentials_entity")
		}
		if err != nil {
			b.Fatal(err)
		}
		return
	}
	db, err := sql.Open("sqlite", "file:"+location)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		id, data := row(i)
		if _, err := tx.Exec(`INSERT INTO credentials_entity (id, name, type, data) VALUES (?, 'bench', 'oAuth2Api', ?)`, id, data); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRewrite rewrites credentials to another instance key, from opening the
// database to closing it, and beside it the floor: the same rows read and written with
// the bytes they have, by the bare driver in one transaction. N8KEEP_SOAK=1 adds
// 100,000 credentials.
func BenchmarkRewrite(b *testing.B) {
	sizes := []int{10_000}
	if os.Getenv("N8KEEP_SOAK") != "" {
		sizes = append(sizes, 100_000)
	}
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		for _, n := range sizes {
			f := n8ndbtest.Load(b, name)
			engine := strings.TrimPrefix(name, "2.41.1-") + "/" + strconv.Itoa(n)
			location := f.Copy(b)
			fill(b, f, location, n)
			b.Run(engine+"/floor", func(b *testing.B) {
				b.ReportAllocs()
				defer reportCPU(b)()
				for b.Loop() {
					floor(b, f, location, n)
				}
			})
			b.Run(engine+"/rewrite", func(b *testing.B) {
				old, fresh := f.Key, n8ndbtest.Key(b, newKeyText)
				r := n8ndbtest.Receipt(b)
				b.ReportAllocs()
				defer reportCPU(b)()
				for b.Loop() {
					w, err := openWriter(f, location)
					if err != nil {
						b.Fatal(err)
					}
					keys, err := w.Keyset(b.Context(), r, old)
					if err != nil {
						b.Fatal(err)
					}
					out, err := w.Rewrite(b.Context(), n8ndb.RewriteConfig{Keys: keys, Receipt: r, Seal: resealer(old, fresh), Digest: digests(), Record: func(n8ndb.Change) error { return nil }})
					if err != nil || out.ByPlace["credentials_entity.data"] < int64(n) {
						b.Fatal(out, err)
					}
					if err := w.Commit(b.Context()); err != nil {
						b.Fatal(err)
					}
					if err := w.Close(); err != nil {
						b.Fatal(err)
					}
					old, fresh = fresh, old
				}
			})
		}
	}
}

// reportCPU tells the time this process has computed, which other programs do not
// change; a server's is not in it.
func reportCPU(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Milliseconds())/float64(b.N), "cpu-ms/op") }
}

// digests chains what a rotation chains.
func digests() func(place, row string, plaintext []byte) string {
	mac := hmac.New(sha256.New, []byte("a key of a benchmark"))
	var sum [sha256.Size]byte
	return func(place, row string, plaintext []byte) string {
		mac.Reset()
		mac.Write(sum[:])
		mac.Write([]byte(place))
		mac.Write([]byte(row))
		mac.Write(plaintext)
		mac.Sum(sum[:0])
		return string(sum[:])
	}
}

func floor(b *testing.B, f n8ndbtest.Fixture, location string, n int) {
	if f.Engine == n8ndb.Postgres {
		floorPostgres(b, location, n)
		return
	}
	db, err := sql.Open("sqlite", "file:"+location+"?_pragma=synchronous(full)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	ids, texts := make([]string, 0, n), make([]string, 0, n)
	rows, err := tx.Query(`SELECT id, data FROM credentials_entity ORDER BY id`)
	if err != nil {
		b.Fatal(err)
	}
	for rows.Next() {
		var id, text string
		if err := rows.Scan(&id, &text); err != nil {
			b.Fatal(err)
		}
		ids, texts = append(ids, id), append(texts, text)
	}
	if err := rows.Close(); err != nil || len(ids) < n {
		b.Fatal(len(ids), err)
	}
	stmt, err := tx.Prepare(`UPDATE credentials_entity SET data = ? WHERE id = ?`)
	if err != nil {
		b.Fatal(err)
	}
	for i := range ids {
		if _, err := stmt.Exec(texts[i], ids[i]); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		b.Fatal(err)
	}
}

func floorPostgres(b *testing.B, location string, n int) {
	ctx := b.Context()
	conn, err := pgx.Connect(ctx, location)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		b.Fatal(err)
	}
	rows, err := tx.Query(ctx, `SELECT id, data FROM credentials_entity ORDER BY id COLLATE "C"`)
	if err != nil {
		b.Fatal(err)
	}
	ids, texts := make([]string, 0, n), make([]string, 0, n)
	for rows.Next() {
		var id, text string
		if err := rows.Scan(&id, &text); err != nil {
			b.Fatal(err)
		}
		ids, texts = append(ids, id), append(texts, text)
	}
	if rows.Close(); rows.Err() != nil || len(ids) < n {
		b.Fatal(len(ids), rows.Err())
	}
	for i := 0; i < len(ids); i += 500 {
		j := min(i+500, len(ids))
		if _, err := tx.Exec(ctx, `UPDATE credentials_entity SET data = v.data FROM unnest($1::text[], $2::text[]) AS v(id, data) WHERE credentials_entity.id = v.id`, ids[i:j], texts[i:j]); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		b.Fatal(err)
	}
}
