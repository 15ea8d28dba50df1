package n8ndb

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

const snapFixtures = "../../testdata/fixtures"

// TestSnapshotHelperProcess is not a test: it is what the second processes of the
// tests here run.
func TestSnapshotHelperProcess(t *testing.T) {
	task := os.Getenv("N8KEEP_TEST_TASK")
	if task == "" {
		return
	}
	path := os.Getenv("N8KEEP_TEST_PATH")
	if err := snapHelperTasks()[task](path); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func snapHelperTasks() map[string]func(string) error {
	// ready tells the test, and waits for it to close our standard input.
	ready := func() {
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
	}
	return map[string]func(string) error{
		// idle has read once and does nothing.
		"idle": func(path string) error {
			db := snapMust(sql.Open("sqlite", snapURI(path, "mode=rw")))
			var n int
			if err := snapMust(db.Conn(context.Background())).QueryRowContext(context.Background(), "SELECT count(*) FROM sqlite_schema").Scan(&n); err != nil {
				return err
			}
			ready()
			return nil
		},
		// writer commits changes to two tables until told to stop; then prints how many.
		"writer": func(path string) error {
			db := snapMust(sql.Open("sqlite", snapURI(path, "mode=rw&_pragma=busy_timeout(10000)&_txlock=immediate")))
			db.SetMaxOpenConns(1)
			stop := make(chan bool)
			go func() { io.Copy(io.Discard, os.Stdin); close(stop) }()
			began := time.Now()
			for n := 1; ; n++ {
				tx, err := db.Begin()
				if err != nil {
					return err
				}
				if _, err := tx.Exec("UPDATE debit SET amount = amount - 1, note = hex(randomblob(400)) WHERE id = ?", n%50); err != nil {
					return err
				}
				if _, err := tx.Exec("UPDATE credit SET amount = amount + 1, note = hex(randomblob(400)) WHERE id = ?", (n*7)%50); err != nil {
					return err
				}
				if _, err := tx.Exec("INSERT INTO journal (note) VALUES (hex(randomblob(200)))"); err != nil {
					return err
				}
				if err := tx.Commit(); err != nil {
					return err
				}
				if n == 1 {
					fmt.Println("ready")
				}
				select {
				case <-stop:
					fmt.Printf("%d %d\n", n, time.Since(began).Milliseconds())
					return nil
				default:
				}
			}
		},
		// crash dies in the middle of a transaction whose pages are partly written.
		"crash": func(path string) error {
			db := snapMust(sql.Open("sqlite", snapURI(path, "mode=rw&_pragma=cache_size(2)&_pragma=journal_mode(delete)")))
			db.SetMaxOpenConns(1)
			if _, err := db.Exec("BEGIN"); err != nil {
				return err
			}
			if _, err := db.Exec("UPDATE debit SET amount = amount + 1000, note = hex(randomblob(2000))"); err != nil {
				return err
			}
			if _, err := db.Exec("UPDATE credit SET amount = 0, note = hex(randomblob(2000))"); err != nil {
				return err
			}
			fmt.Println("ready")
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		},
		// snapshot makes one and reports it.
		"snapshot": func(path string) error {
			source, dest, _ := strings.Cut(path, "|")
			report, err := Snapshot(context.Background(), SnapshotConfig{Source: source, Dest: dest})
			fmt.Println(report.JournalMode, err)
			if err != nil {
				fmt.Println("hint:", problem.HintOf(err))
			}
			return nil
		},
		"hold": func(path string) error {
			h, err := Hold(context.Background(), path, HoldConfig{})
			fmt.Println(err)
			if err != nil {
				fmt.Println("hint:", problem.HintOf(err))
				return nil
			}
			return h.Release()
		},
	}
}

func snapMust[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type snapHelper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// snapStart runs a task in a second process and waits until it says ready.
func snapStart(t *testing.T, task, path string) *snapHelper {
	t.Helper()
	h := snapCommand(t, os.Args[0], task, path)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.stop() })
	line, err := h.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("helper %s: %q %v", task, line, err)
	}
	return h
}

func snapCommand(t *testing.T, program, task, path string) *snapHelper {
	t.Helper()
	cmd := exec.Command(program, "-test.run=^TestSnapshotHelperProcess$")
	cmd.Env = append(os.Environ(), "N8KEEP_TEST_TASK="+task, "N8KEEP_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	return &snapHelper{cmd, snapMust(cmd.StdinPipe()), bufio.NewReader(snapMust(cmd.StdoutPipe()))}
}

// stop ends the helper and returns what it had left to say.
func (h *snapHelper) stop() string {
	h.in.Close()
	rest, _ := io.ReadAll(h.out)
	h.cmd.Wait()
	return string(rest)
}

// snapCopyFixture copies a database with all that belongs to it.
func snapCopyFixture(t *testing.T, name string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	from := filepath.Join(snapFixtures, name)
	found := false
	for _, suffix := range holdSuffixes() {
		b, err := os.ReadFile(filepath.Join(from, "database.sqlite"+suffix))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		found = true
		if err := os.WriteFile(filepath.Join(dir, "database.sqlite"+suffix), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !found {
		t.Fatalf("no fixture %q", name)
	}
	return dir, filepath.Join(dir, "database.sqlite")
}

// snapAge makes the files of a folder an hour old.
func snapAge(t *testing.T, dir string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	for _, e := range snapMust(os.ReadDir(dir)) {
		if err := os.Chtimes(filepath.Join(dir, e.Name()), old, old); err != nil {
			t.Fatal(err)
		}
	}
}

// snapListing is what a folder holds: names, modes, times and contents.
func snapListing(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	for _, e := range snapMust(os.ReadDir(dir)) {
		info := snapMust(e.Info())
		content := ""
		if info.Mode().IsRegular() && !strings.HasSuffix(e.Name(), "-shm") {
			b := snapMust(os.ReadFile(filepath.Join(dir, e.Name())))
			content = fmt.Sprintf("%d %x %s", len(b), snapHash(b), info.ModTime())
		}
		list = append(list, fmt.Sprintf("%s %v %s", e.Name(), info.Mode(), content))
	}
	return list
}

func snapHash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// snapDump is every value of every table with its type, and the schema, as text
// in which nothing is lost.
func snapDump(t *testing.T, uri string) map[string][]string {
	t.Helper()
	db := snapMust(snapPool(uri))
	defer db.Close()
	dump := map[string][]string{}
	query := func(into, stmt string, args ...any) (first []string) {
		rows, err := db.Query(stmt, args...)
		if err != nil {
			t.Fatalf("%s: %v", stmt, err)
		}
		defer rows.Close()
		width := len(snapMust(rows.Columns()))
		for rows.Next() {
			cells := make([]sql.NullString, width)
			into := make([]any, width)
			for i := range cells {
				into[i] = &cells[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			line := ""
			for _, c := range cells {
				line += fmt.Sprintf("%q ", c.String)
			}
			first = append(first, line)
		}
		if err := rows.Err(); err != nil {
			t.Fatalf("%s: %v", stmt, err)
		}
		if into != "" {
			dump[into] = first
		}
		return first
	}
	query("schema", "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1, 2")
	for _, pragma := range []string{"user_version", "application_id", "page_size", "encoding", "auto_vacuum"} {
		query(pragma, "PRAGMA "+pragma)
	}
	rows := snapMust(db.Query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%'"))
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	rows.Close()
	for _, table := range tables {
		columns := snapMust(db.Query("SELECT name FROM pragma_table_xinfo(?)", table))
		var cells []string
		for columns.Next() {
			var c string
			if err := columns.Scan(&c); err != nil {
				t.Fatal(err)
			}
			// The bytes, because text may contain NUL, and the bits of a REAL.
			cells = append(cells, fmt.Sprintf("typeof(%[1]s) || ':' || CASE typeof(%[1]s) WHEN 'text' THEN hex(CAST(%[1]s AS BLOB)) WHEN 'real' THEN printf('%%!.20e', %[1]s) ELSE quote(%[1]s) END", quote(c)))
		}
		columns.Close()
		lines := query("", "SELECT "+strings.Join(cells, ", ")+" FROM "+quote(table))
		slices.Sort(lines)
		dump["table "+table] = lines
	}
	if len(tables) == 0 {
		t.Fatal("the dump found no table")
	}
	return dump
}

func snapFixtureNames(t *testing.T) []string {
	t.Helper()
	paths := snapMust(filepath.Glob(filepath.Join(snapFixtures, "*sqlite*", "database.sqlite")))
	if len(paths) < 6 {
		t.Fatalf("found %d SQLite fixtures", len(paths))
	}
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(filepath.Dir(p)))
	}
	return names
}

func TestSnapshotOfFixtures(t *testing.T) {
	for i, name := range append(snapFixtureNames(t), "2.41.1-sqlite/raw-hot") {
		for k, history := range []string{"all", "none", "3650d"} {
			if i%3 != k && !strings.Contains(name, "hot") && os.Getenv("N8KEEP_SOAK") == "" {
				continue
			}
			t.Run(name+"/"+history, func(t *testing.T) {
				dir, path := snapCopyFixture(t, name)
				snapAge(t, dir)
				before := snapListing(t, dir)
				dest := filepath.Join(t.TempDir(), "copy")
				done := int64(-1)
				report, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: dest, History: snapMust(ParseHistory(history)),
					Progress: func(n, total int64) { done = total - n }})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
					t.Errorf("the source's folder changed:\n%s", diff)
				}
				info := snapMust(os.Stat(dest))
				if info.Mode() != 0o600 || info.Size() != report.Bytes || done != 0 || report.Duration <= 0 {
					t.Errorf("mode %v, %d bytes, report %+v, progress left %d", info.Mode(), info.Size(), report, done)
				}
				head := snapMust(readHeader(path))
				copied := snapMust(readHeader(dest))
				if head[18] != copied[18] || head[19] != copied[19] {
					t.Errorf("journal mode %v became %v", head[18:20], copied[18:20])
				}
				if want := map[bool]string{true: "wal", false: "delete"}[head.wal()]; report.JournalMode != want || report.BlockedWriter == head.wal() {
					t.Errorf("report %+v", report)
				}
				if found, err := CheckIntegrity(t.Context(), dest); err != nil || !found.OK {
					t.Errorf("integrity %+v %v", found, err)
				}
				if entries := snapMust(os.ReadDir(filepath.Dir(dest))); len(entries) != 1 {
					t.Errorf("beside the copy: %v", entries)
				}
				want := snapDump(t, snapURI(path, "mode=ro"))
				if strings.Contains(name, "hot") && len(want["table credentials_entity"]) == 0 {
					t.Error("the log was not read")
				}
				got := snapDump(t, snapURI(dest, "mode=ro&immutable=1"))
				if history == "none" {
					for table := range want {
						if historyIsChurn(strings.TrimPrefix(table, "table "), "") {
							delete(want, table)
							delete(got, table)
						}
					}
				} else if history != "all" {
					for table := range want {
						if n := strings.TrimPrefix(table, "table "); historyIsChurn(n, "") && !strings.HasPrefix(n, "execution_") {
							delete(want, table)
							delete(got, table)
						}
					}
				}
				if !reflect.DeepEqual(want, got) {
					t.Errorf("the copy differs:\n%s", cmp.Diff(want, got))
				}
			})
		}
	}
}

func TestSnapshotModeDespiteUmask(t *testing.T) {
	_, path := snapCopyFixture(t, "2.41.1-sqlite")
	dir := t.TempDir()
	for _, mask := range []int{0, 0o777} {
		dest := filepath.Join(dir, strconv.Itoa(mask))
		old := syscall.Umask(mask)
		err := snapCreate(dest)
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if mode := snapMust(os.Stat(dest)).Mode(); mode != 0o600 {
			t.Errorf("umask %o: mode %v", mask, mode)
		}
		os.Remove(dest)
		if _, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: dest}); err != nil {
			t.Fatal(err)
		}
	}
}

// What a killed n8n left behind is read without touching it.
func TestSnapshotAfterCrash(t *testing.T) {
	t.Run("log without index", func(t *testing.T) {
		dir, path := snapCopyFixture(t, "2.41.1-sqlite/raw-hot")
		if err := os.Remove(path + "-shm"); err != nil {
			t.Fatal(err)
		}
		snapCompareCrashed(t, dir, path, "wal")
	})
	t.Run("hot journal", func(t *testing.T) {
		dir, path := snapLedger(t, "delete")
		snapCrash(t, path)
		snapCompareCrashed(t, dir, path, "delete")
	})
}

func snapCompareCrashed(t *testing.T, dir, path, mode string) {
	t.Helper()
	before := snapListing(t, dir)
	for _, history := range []string{"all", "none"} {
		work := t.TempDir()
		dest := filepath.Join(work, "copy")
		report, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: dest, History: snapMust(ParseHistory(history))})
		if err != nil {
			t.Fatal(err)
		}
		if report.JournalMode != mode {
			t.Errorf("report %+v", report)
		}
		if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
			t.Errorf("the source's folder changed:\n%s", diff)
		}
		if entries := snapMust(os.ReadDir(work)); len(entries) != 1 {
			t.Errorf("the work folder holds %v", entries)
		}
		got := snapDump(t, snapURI(dest, "mode=ro&immutable=1"))
		if mode == "wal" && len(got["table credentials_entity"]) == 0 {
			t.Error("the log was not read")
		}
		if mode == "delete" {
			snapBalanced(t, dest)
		}
	}
}

// snapLedger makes a database with an invariant: the sum over debit and credit is 0.
func snapLedger(t *testing.T, mode string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "database.sqlite")
	db := snapMust(snapPool(snapURI(path, "_pragma=journal_mode("+mode+")")))
	for _, stmt := range []string{
		"CREATE TABLE debit (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT)",
		"CREATE TABLE credit (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, note TEXT)",
		"CREATE TABLE journal (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT)",
		"CREATE INDEX journal_note ON journal (note)",
		"INSERT INTO debit SELECT value, -1000, hex(randomblob(1500)) FROM generate_series(0, 199)",
		"INSERT INTO credit SELECT value, 1000, hex(randomblob(1500)) FROM generate_series(0, 199)",
	} {
		if strings.Contains(stmt, "generate_series") {
			stmt = strings.Replace(stmt, "generate_series(0, 199)", "(WITH RECURSIVE s(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM s WHERE value < 199) SELECT value FROM s)", 1)
		}
		if _, err := db.Exec(stmt); err != nil {
			t.Fatalf("%s: %v", stmt, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func snapCrash(t *testing.T, path string) {
	t.Helper()
	snapStart(t, "crash", path).cmd.Wait()
	if info, err := os.Stat(path + "-journal"); err != nil || info.Size() == 0 {
		t.Fatalf("the crash left no journal: %v", err)
	}
}

func snapBalanced(t *testing.T, path string) (entries int) {
	t.Helper()
	db := snapMust(snapPool(snapURI(path, "mode=ro&immutable=1")))
	defer db.Close()
	var sum, rows int
	if err := db.QueryRow("SELECT (SELECT sum(amount) FROM debit) + (SELECT sum(amount) FROM credit), (SELECT count(*) FROM debit), (SELECT count(*) FROM journal)").Scan(&sum, &rows, &entries); err != nil {
		t.Fatal(err)
	}
	if sum != 0 || rows != 200 {
		t.Fatalf("%s: sum %d over %d rows", path, sum, rows)
	}
	return entries
}

func TestSnapshotWhileWriting(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			dir, path := snapLedger(t, mode)
			writer := snapStart(t, "writer", path)
			last := -1
			// A writer beside a rollback journal keeps a reader waiting for long.
			count := map[string]int{"wal": 20, "delete": 6}[mode]
			for i := range count {
				history := History{}
				if i%2 == 1 {
					history = snapMust(ParseHistory("none"))
				}
				dest := filepath.Join(t.TempDir(), "copy")
				report, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: dest, History: history})
				if err != nil {
					t.Fatal(err)
				}
				if report.BlockedWriter != (mode == "delete") {
					t.Errorf("report %+v", report)
				}
				if found, err := CheckIntegrity(t.Context(), dest); err != nil || !found.OK {
					t.Fatalf("integrity %+v %v", found, err)
				}
				n := snapBalanced(t, dest)
				if n < last {
					t.Errorf("snapshot %d has %d entries after %d", i, n, last)
				}
				last = n
			}
			var commits, ms int
			if _, err := fmt.Sscan(writer.stop(), &commits, &ms); err != nil {
				t.Fatalf("the writer failed: %v", err)
			}
			if last < 2 {
				t.Fatal("nothing was written between the snapshots")
			}
			t.Logf("%d commits/s beside %d snapshots", commits*1000/max(ms, 1), count)
			if mode == "wal" && commits*1000/max(ms, 1) < 100 {
				t.Errorf("the writer came to %d commits in %d ms", commits, ms)
			}
			names := ""
			for _, e := range snapMust(os.ReadDir(dir)) {
				names += e.Name() + " "
			}
			if mode == "delete" && names != "database.sqlite " {
				t.Errorf("left: %s", names)
			}
		})
	}
}

// A WAL database that was changed this moment is read with locks, which makes
// -wal and -shm. They go again when nobody else has the database open.
func TestSnapshotRemovesWhatItMade(t *testing.T) {
	dir, path := snapLedger(t, "wal")
	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	before := snapListing(t, dir)
	src, err := snapOpen(t.Context(), path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if files := snapMust(snapLook(src.path)); !files.wal.exists || !files.shm.exists {
		t.Fatalf("not read through a log: %+v", files)
	}
	if err := src.finish(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
		t.Errorf("left:\n%s", diff)
	}

	// Somebody comes while we read: the files are theirs now.
	src = snapMust(snapOpen(t.Context(), path, t.TempDir()))
	idle := snapStart(t, "idle", path)
	if err := src.finish(); err != nil {
		t.Fatal(err)
	}
	if files := snapMust(snapLook(path)); !files.wal.exists || !files.shm.exists {
		t.Fatalf("files in use were removed: %+v", files)
	}
	idle.stop()
}

// An n8n that starts while the file is read without locks is noticed.
func TestSnapshotNoticesOpener(t *testing.T) {
	dir, path := snapLedger(t, "wal")
	snapAge(t, dir)
	src := snapMust(snapOpen(t.Context(), path, t.TempDir()))
	if files := snapMust(snapLook(path)); files.wal.exists {
		t.Fatalf("reading made %+v", files)
	}
	idle := snapStart(t, "idle", path)
	err := snapProblem(t.Context(), src.finish(), "copying database %q", path)
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "it was changed while it was being copied") ||
		problem.HintOf(err) != "n8n was probably started at this moment; try again" {
		t.Errorf("got %v, hint %q", err, problem.HintOf(err))
	}
	// The next attempt reads beside it.
	if _, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: filepath.Join(t.TempDir(), "copy")}); err != nil {
		t.Error(err)
	}
	idle.stop()
}

// snapAsOther runs a task as a user who may read the folder and not write it.
func snapAsOther(t *testing.T, task, path string, dirs ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		h := snapCommand(t, os.Args[0], task, path)
		if err := h.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return h.stop()
	}
	// The test binary and the temporary folders are closed to others.
	bin := filepath.Join(t.TempDir(), "helper")
	if err := os.WriteFile(bin, snapMust(os.ReadFile(os.Args[0])), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(dirs, filepath.Dir(bin)) {
		for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			info := snapMust(os.Stat(dir))
			if err := os.Chmod(dir, info.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
	h := snapCommand(t, bin, task, path)
	h.cmd.Dir = "/"
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return h.stop()
}

func TestSnapshotOfReadOnlyFolder(t *testing.T) {
	for _, tt := range []struct {
		name, fixture string
		prepare       func(t *testing.T, path string)
		want          string
	}{
		{"wal mode, no log", "2.41.1-sqlite", func(t *testing.T, path string) {
			f := snapMust(os.OpenFile(path, os.O_RDWR, 0))
			defer f.Close()
			if _, err := f.WriteAt([]byte{2, 2}, snapHeaderModes); err != nil {
				t.Fatal(err)
			}
		}, "wal <nil>\n"},
		{"rollback journal", "1.123.81-sqlite", func(*testing.T, string) {}, "delete <nil>\n"},
		{"log with index", "2.41.1-sqlite/raw-hot", func(*testing.T, string) {}, "wal <nil>\n"},
		{"log without index", "2.41.1-sqlite/raw-hot", func(t *testing.T, path string) {
			if err := os.Remove(path + "-shm"); err != nil {
				t.Fatal(err)
			}
		}, "wal <nil>\n"},
		{"unreadable", "1.123.81-sqlite", func(t *testing.T, path string) {
			if err := os.Chmod(path, 0); err != nil {
				t.Fatal(err)
			}
		}, " permission denied for \"PATH\"\nhint: run as the user that runs n8n, or as root\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, path := snapCopyFixture(t, tt.fixture)
			tt.prepare(t, path)
			if err := os.Chmod(dir, 0o555); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(dir, 0o755) })
			snapAge(t, dir)
			before := snapListing(t, dir)
			work := t.TempDir()
			if err := os.Chmod(work, 0o777); err != nil {
				t.Fatal(err)
			}
			dest := filepath.Join(work, "copy")
			got := snapAsOther(t, "snapshot", path+"|"+dest, dir, work)
			if want := strings.ReplaceAll(tt.want, "PATH", path); got != want {
				t.Fatalf("got  %q\nwant %q", got, want)
			}
			if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
				t.Errorf("the source's folder changed:\n%s", diff)
			}
			if strings.Contains(got, "<nil>") {
				if rows := snapDump(t, snapURI(dest, "mode=ro&immutable=1"))["table credentials_entity"]; len(rows) == 0 {
					t.Error("no credentials in the copy")
				}
			}
		})
	}
}

func TestSnapshotRefusals(t *testing.T) {
	_, good := snapCopyFixture(t, "2.41.1-sqlite")
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	damaged := bytes.Clone(snapMust(os.ReadFile(good)))
	copy(damaged[100:], bytes.Repeat([]byte{0xff}, 4000))
	virtual := filepath.Join(t.TempDir(), "virtual")
	db := snapMust(snapPool(snapURI(virtual, "mode=rwc")))
	if _, err := db.Exec("CREATE VIRTUAL TABLE notes USING fts5(body)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	none := snapMust(ParseHistory("none"))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	exists := write("exists", []byte("x"))
	for _, tt := range []struct {
		name, source, dest string
		history            History
		ctx                context.Context
		kind               problem.Kind
		text, hint         string
	}{
		{name: "missing", source: "/nonexistent/database.sqlite", kind: problem.NotFound, text: `there is no database at "/nonexistent/database.sqlite"`,
			hint: "name the folder that holds database.sqlite with --n8n-dir, or the file itself with --database"},
		{name: "empty", source: write("empty", nil), kind: problem.Damaged, text: "SOURCE is empty"},
		{name: "not a database", source: write("text", []byte(strings.Repeat("hello ", 100))), kind: problem.Damaged,
			text: "SOURCE is not an SQLite database, or it is encrypted"},
		{name: "damaged", source: write("damaged", damaged), kind: problem.Damaged,
			text: "copying database SOURCE: database disk image is malformed (11)",
			hint: `see what is wrong with "sqlite3 FILE 'PRAGMA integrity_check'" and restore an older backup`},
		{name: "destination exists", source: good, dest: exists, kind: problem.Usage, text: "making snapshot DEST: the file exists"},
		{name: "no such folder", source: good, dest: "/nonexistent/copy", kind: problem.Unexpected,
			text: "copying database SOURCE: making snapshot DEST: no such file or directory"},
		{name: "virtual table", source: virtual, history: none, kind: problem.Usage,
			text: `table "notes" is a virtual table, which only a complete snapshot can take along`, hint: `use "--history all"`},
		{name: "cancelled", source: good, ctx: cancelled, kind: problem.Interrupted, text: "copying database SOURCE: context canceled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			work := t.TempDir()
			if tt.dest == "" {
				tt.dest = filepath.Join(work, "copy")
			}
			if tt.ctx == nil {
				tt.ctx = t.Context()
			}
			_, err := Snapshot(tt.ctx, SnapshotConfig{Source: tt.source, Dest: tt.dest, History: tt.history})
			want := strings.NewReplacer("SOURCE", strconv.Quote(tt.source), "DEST", strconv.Quote(tt.dest)).Replace(tt.text)
			if err == nil || err.Error() != want || problem.KindOf(err) != tt.kind || problem.HintOf(err) != tt.hint {
				t.Errorf("got  %v (%s)\nwant %s (%s)\nhint %q", err, problem.KindOf(err), want, tt.kind, problem.HintOf(err))
			}
			if entries := snapMust(os.ReadDir(work)); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	if b := snapMust(os.ReadFile(exists)); string(b) != "x" {
		t.Error("an existing file was changed")
	}
}

func TestSnapshotBusyAndFull(t *testing.T) {
	// The texts alone: neither can be had without waiting or a full disk.
	ctx := t.Context()
	err := snapProblem(ctx, fmt.Errorf("writing: %w", syscall.ENOSPC), "copying database %q", "x")
	if err.Error() != `copying database "x": writing: no space left on device` || problem.HintOf(err) != "free some space in the folder of the copy" {
		t.Errorf("got %v, %q", err, problem.HintOf(err))
	}
	_, path := snapLedger(t, "delete")
	db := snapMust(snapPool(snapURI(path, "mode=rw")))
	defer db.Close()
	if _, err := db.Exec("BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	reader := snapMust(snapPool(snapURI(path, "mode=ro")))
	defer reader.Close()
	var n int
	busy := reader.QueryRow("SELECT count(*) FROM sqlite_schema").Scan(&n)
	err = snapProblem(ctx, busy, "copying database %q", "x")
	if problem.KindOf(err) != problem.Busy || problem.HintOf(err) != "another process has held the database locked for 30s; try again" {
		t.Errorf("got %v (%s), %q", err, problem.KindOf(err), problem.HintOf(err))
	}
}

func TestSnapshotCancelledHalfway(t *testing.T) {
	_, path := snapCopyFixture(t, "2.41.1-sqlite")
	for _, history := range []string{"all", "none"} {
		work := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Snapshot(ctx, SnapshotConfig{Source: path, Dest: filepath.Join(work, "copy"), History: snapMust(ParseHistory(history)),
			Progress: func(int64, int64) { cancel() }})
		if problem.KindOf(err) != problem.Interrupted {
			t.Errorf("%s: %v", history, err)
		}
		if entries := snapMust(os.ReadDir(work)); len(entries) != 0 {
			t.Errorf("%s: left behind: %v", history, entries)
		}
	}
}

func TestSnapshotURI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c=d#e%20f")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, from := snapCopyFixture(t, "1.123.81-sqlite")
	path := filepath.Join(dir, "data?mode=memory.sqlite")
	if err := os.Rename(from, path); err != nil {
		t.Fatal(err)
	}
	for _, history := range []string{"all", "none"} {
		dest := filepath.Join(dir, "copy%#?"+history)
		if _, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: dest, History: snapMust(ParseHistory(history))}); err != nil {
			t.Fatal(err)
		}
		if len(snapDump(t, snapURI(dest, "mode=ro&immutable=1"))["table credentials_entity"]) == 0 {
			t.Error("no credentials")
		}
	}
}
