package pgdump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestPartsAndChunks: a large table is read in pieces by several sessions and written in files that end at rows.
func TestPartsAndChunks(t *testing.T) {
	source, dir := pgtest.New(t), t.TempDir()
	execute(t, source, `CREATE TABLE public.big (id int, body text)`,
		`INSERT INTO public.big SELECT i, repeat(E'line\n' || i, i % 50) FROM generate_series(1, 5000) i`,
		`DELETE FROM public.big WHERE id % 7 = 0`, // not the whole heap
		`INSERT INTO public.big SELECT i, repeat('x', 30000) FROM generate_series(5001, 5010) i`)
	var last, total int64
	report := dumpTo(t, dir, DumpConfig{DSN: source, Workers: 4, chunkBytes: 8192, partBytes: 32768, Progress: func(d, of int64) {
		if d < last || d > of {
			t.Errorf("progress %d of %d after %d", d, of, last)
		}
		last, total = d, of
	}})
	if report.Rows["big"] != 4296 || total == 0 {
		t.Errorf("rows %v, progress of %d", report.Rows, total)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "data", "0001.*.sql"))
	if len(files) < 50 {
		t.Errorf("only %d files", len(files))
	}
	for _, f := range files {
		body := readFile(t, f)
		if !strings.HasPrefix(body, "COPY \"public\".\"big\" (\"id\", \"body\") FROM stdin;\n") || !strings.HasSuffix(body, "\n\\.\n") {
			t.Errorf("%s is no whole COPY", f)
		}
		if len(body) > 8192+len(copyEnd) && strings.Count(body, "\n") > 3 {
			t.Errorf("%s has %d bytes in several rows", f, len(body))
		}
	}
	restored := pgtest.New(t)
	if err := Restore(t.Context(), RestoreConfig{DSN: restored, Dir: dir, Jobs: 4}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(digests(t, source), digests(t, restored)); diff != "" {
		t.Errorf("rows differ:\n%s", diff)
	}
}

// TestMemory: rows of 8 MiB, in the form whose COPY text is largest, stay within the documented bound.
func TestMemory(t *testing.T) {
	source := pgtest.New(t)
	execute(t, source, `CREATE TABLE public.t (b bytea)`, `INSERT INTO public.t SELECT decode(repeat(md5(i::text), 8 << 15), 'hex') || '\x00' FROM generate_series(1, 6) i`)
	execute(t, source, `UPDATE public.t SET b = b || b`)
	if got := lines(t, source, `SELECT (min(length(b)) >> 20)::text FROM public.t`)[0]; got != "8" {
		t.Fatalf("rows of %s MiB", got)
	}
	runtime.GC()
	var before, during runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	_, err := Dump(t.Context(), DumpConfig{DSN: source, Workers: 1, Emit: func(string, []byte) error {
		runtime.GC() // what is really held, not what awaits collection
		runtime.ReadMemStats(&during)
		peak = max(peak, during.HeapAlloc-min(during.HeapAlloc, before.HeapAlloc))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak %d MiB", peak>>20)
	if peak > 56<<20 {
		t.Errorf("%d MiB held for rows of 8 MiB", peak>>20)
	}
}

// TestSnapshot: a dump shows one moment, that of the snapshot it is given or of its own beginning.
func TestSnapshot(t *testing.T) {
	source := pgtest.New(t)
	execute(t, source, `CREATE TABLE public.t (id int)`, `INSERT INTO public.t VALUES (1)`)
	conn, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	var snapshot string
	if err := tx.QueryRow(t.Context(), `SELECT pg_export_snapshot()`).Scan(&snapshot); err != nil {
		t.Fatal(err)
	}
	execute(t, source, `INSERT INTO public.t VALUES (2)`)
	emit := func(name string, _ []byte) error {
		if name == "pre.sql" {
			execute(t, source, `INSERT INTO public.t VALUES (3)`)
		}
		return nil
	}
	for _, test := range []struct {
		snapshot string
		want     int64
	}{{snapshot, 1}, {"", 3}} {
		report, err := Dump(t.Context(), DumpConfig{DSN: source, Snapshot: test.snapshot, Emit: emit})
		if err != nil || report.Rows["t"] != test.want {
			t.Errorf("snapshot %q: rows %v, error %v, want %d rows", test.snapshot, report.Rows, err, test.want)
		}
	}
	_, err = Dump(t.Context(), DumpConfig{DSN: source, Snapshot: "00000003-'0000001B-1", Emit: emit})
	if err == nil || !strings.HasPrefix(err.Error(), "taking the snapshot: ") {
		t.Errorf("error %v", err)
	}
}

// TestBusy: somebody who waits to change a table makes the dump give up at once, not wait in a circle.
func TestBusy(t *testing.T) {
	source := pgtest.New(t)
	execute(t, source, `CREATE TABLE public.t (id int)`, `INSERT INTO public.t VALUES (1)`)
	altered := make(chan error, 1)
	_, err := Dump(t.Context(), DumpConfig{DSN: source, AppName: "n8keep-busy", Emit: func(name string, _ []byte) error {
		go func() {
			conn, err := pgx.Connect(t.Context(), source)
			if err == nil {
				_, err = conn.Exec(t.Context(), `ALTER TABLE public.t ADD more int`)
				err = errors.Join(err, conn.Close(t.Context()))
			}
			altered <- err
		}()
		await(t, source, `SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'public.t'::regclass`)
		return nil
	}})
	if problem.KindOf(err) != problem.Busy || !strings.HasPrefix(err.Error(), "locking tables against changes: a table of the database is about to be changed by somebody else") ||
		problem.HintOf(err) != "n8n may be upgrading: try again when it has started" {
		t.Errorf("error %v, hint %q", err, problem.HintOf(err))
	}
	if err := <-altered; err != nil {
		t.Errorf("whoever waited: %v", err)
	}
	await(t, source, `SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'n8keep-busy'`)
}

// await asks until the answer is true.
func await(t testing.TB, dsn, query string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		var ok bool
		if err := conn.QueryRow(t.Context(), query).Scan(&ok); err != nil {
			t.Error(err)
			return
		}
		if ok {
			return
		}
		<-tick.C
	}
	t.Errorf("never true: %s", query)
}

// TestInterrupted: a cancelled or failing dump or restore ends with the cause and leaves no session.
func TestInterrupted(t *testing.T) {
	source, dir := pgtest.New(t), t.TempDir()
	execute(t, source, `CREATE TABLE public.t (id int, b text)`, `INSERT INTO public.t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i`)
	full := errors.New("no room")
	emit := func(name string, body []byte) error {
		if strings.HasPrefix(name, "data/") {
			return full
		}
		return nil
	}
	_, err := Dump(t.Context(), DumpConfig{DSN: source, AppName: "n8keep-gone", Emit: emit})
	if !errors.Is(err, full) || !strings.Contains(err.Error(), `writing "data/0001.000001.sql": no room`) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = Dump(ctx, DumpConfig{DSN: source, AppName: "n8keep-gone", Emit: func(name string, body []byte) error {
		if strings.HasPrefix(name, "data/") {
			cancel(nil)
		}
		return nil
	}})
	if !errors.Is(err, context.Canceled) || problem.KindOf(err) != problem.Interrupted {
		t.Errorf("error %v of kind %s", err, problem.KindOf(err))
	}
	dumpTo(t, dir, DumpConfig{DSN: source})
	ctx, cancel = context.WithCancelCause(t.Context())
	err = Restore(ctx, RestoreConfig{DSN: pgtest.New(t), Dir: dir, AppName: "n8keep-gone", Progress: func(int64, int64) { cancel(nil) }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	await(t, source, `SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'n8keep-gone'`)
}

// TestDamaged: a dump that is not whole is not restored.
func TestDamaged(t *testing.T) {
	source, dir := pgtest.New(t), t.TempDir()
	execute(t, source, `CREATE TABLE public.t (id int PRIMARY KEY)`, `INSERT INTO public.t VALUES (1), (2)`)
	dumpTo(t, dir, DumpConfig{DSN: source})
	data, pre := filepath.Join(dir, "data", "0001.000001.sql"), filepath.Join(dir, "pre.sql")
	for _, test := range []struct {
		file   string
		change func(string) string
		want   string
		kind   problem.Kind
	}{
		{data, func(s string) string { return s[:len(s)-3] }, `data file "0001.000001.sql" is cut off`, problem.Damaged},
		{data, func(s string) string { return s[:3] }, `data file "0001.000001.sql" is cut off`, problem.Damaged},
		{data, func(s string) string { return "DROP TABLE public.t;\n" + s }, `data file "0001.000001.sql" does not begin with COPY`, problem.Damaged},
		{data, func(s string) string { return strings.Replace(s, "\n2\n", "\nx\n", 1) }, `loading "0001.000001.sql": ERROR: invalid input syntax for type integer: "x" (SQLSTATE 22P02)`, problem.Unexpected},
		{data, func(s string) string { return strings.Replace(s, "\n2\n", "\n1\n", 1) }, `restoring primary key "public"."t" "t_pkey": ERROR: could not create unique index "t_pkey" (SQLSTATE 23505)`, problem.Unexpected},
		{pre, func(s string) string { return s[:len(s)-3] }, `"pre.sql" is cut off in table "public"."t"`, problem.Damaged},
		{pre, func(s string) string { return "SELECT 1;\n" + s }, `"pre.sql" does not begin as a script of a native dump`, problem.Damaged},
		{pre, func(s string) string { return strings.Replace(s, `{"label":"table`, `{"label":"`+"\x01", 1) }, `"pre.sql" has a damaged mark: `, problem.Damaged},
		{pre, func(s string) string { return strings.Replace(s, "CREATE TABLE", "CREATE TABEL", 1) }, `restoring table "public"."t": ERROR: syntax error at or near "TABEL" (SQLSTATE 42601)`, problem.Unexpected},
	} {
		good := readFile(t, test.file)
		bad := test.change(good)
		if good == bad {
			t.Fatalf("nothing changed for %s", test.want)
		}
		if err := os.WriteFile(test.file, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		err := Restore(t.Context(), RestoreConfig{DSN: pgtest.New(t), Dir: dir})
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || problem.KindOf(err) != test.kind {
			t.Errorf("error %v of kind %s, want %s of kind %s", err, problem.KindOf(err), test.want, test.kind)
		}
		if err := os.WriteFile(test.file, []byte(good), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := Restore(t.Context(), RestoreConfig{DSN: source, Dir: dir, Sections: []string{"some"}})
	if err == nil || err.Error() != `a dump has no section "some"` {
		t.Errorf("error %v", err)
	}
	err = Restore(t.Context(), RestoreConfig{DSN: source, Dir: dir})
	if err == nil || err.Error() != `restoring table "public"."t": ERROR: relation "t" already exists (SQLSTATE 42P07)` {
		t.Errorf("error %v", err)
	}
	if err := Restore(t.Context(), RestoreConfig{DSN: source, Dir: t.TempDir()}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func benchmarkSource(b *testing.B) string {
	dsn := pgtest.New(b)
	execute(b, dsn, `CREATE TABLE public.execution_data ("executionId" serial PRIMARY KEY, data text NOT NULL)`,
		fmt.Sprintf(`INSERT INTO public.execution_data (data) SELECT (SELECT string_agg(md5((i * j)::text), '","') FROM generate_series(1, 300) j) FROM generate_series(1, %d) i`, 5000))
	return dsn
}

func BenchmarkDump(b *testing.B) {
	dsn := benchmarkSource(b)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				report, err := Dump(b.Context(), DumpConfig{DSN: dsn, Workers: workers, partBytes: 8 << 20, Emit: func(string, []byte) error { return nil }})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(report.Bytes)
			}
		})
	}
}

// BenchmarkPgDump is what BenchmarkDump is measured against.
func BenchmarkPgDump(b *testing.B) {
	dsn := benchmarkSource(b)
	bytes := dumpTo(b, b.TempDir(), DumpConfig{DSN: dsn}).Bytes
	bin, err := pgtest.Program("pg_dump")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(bytes)
	for b.Loop() {
		cmd := exec.Command(bin, "-Fc", "-Z0", "-d", dsn) // its output goes to /dev/null
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	dsn, dir := benchmarkSource(b), b.TempDir()
	report := dumpTo(b, dir, DumpConfig{DSN: dsn})
	b.SetBytes(report.Bytes)
	for b.Loop() {
		b.StopTimer()
		to := pgtest.New(b)
		b.StartTimer()
		restoreFrom(b, dir, to)
	}
}
