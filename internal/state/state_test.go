package state_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func open(t testing.TB, dir string) *state.DB {
	t.Helper()
	db, err := state.Open(t.Context(), state.Config{Dir: dir, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatalf("%v (hint %q)", err, problem.HintOf(err))
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestWhatIsRememberedSurvivesReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder with ? and %", "state")
	db := open(t, dir)
	first := state.Verification{Archive: "a", Level: "quick", SHA256: "aa", Time: noon, Outcome: state.Damaged}
	again := state.Verification{Archive: "a", Level: "quick", SHA256: "aa", Time: noon.Add(time.Hour), Outcome: state.Sound}
	deep := state.Verification{Archive: "a", Level: "full", SHA256: "aa", Time: noon.Add(2 * time.Hour), Outcome: state.Sound}
	for _, v := range []state.Verification{first, again, deep} {
		if err := db.RecordVerification(t.Context(), "here", v); err != nil {
			t.Fatal(err)
		}
	}
	one := state.Sidecar{Name: "a.json", Size: 3, ETag: "e", ModTime: noon.Add(1), Content: []byte("abc")}
	two := state.Sidecar{Name: "b.json", Size: 1, ModTime: noon, Content: []byte("b")}
	if err := db.UpdateSidecars(t.Context(), "here", []state.Sidecar{one, two}, nil); err != nil {
		t.Fatal(err)
	}
	changed := state.Sidecar{Name: "a.json", Size: 4, ETag: "f", ModTime: noon, Content: []byte("abcd")}
	if err := db.UpdateSidecars(t.Context(), "here", []state.Sidecar{changed}, []string{"b.json", "never.json"}); err != nil {
		t.Fatal(err)
	}
	if err := db.SeeClock(t.Context(), "here", noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := db.SeeClock(t.Context(), "here", noon); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db = open(t, dir)
	for target, want := range map[string]map[string][]state.Verification{"here": {"a": {deep, again}}, "elsewhere": {}} {
		got, err := db.Verifications(t.Context(), target)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	for target, want := range map[string]map[string]state.Sidecar{"here": {"a.json": changed}, "elsewhere": {}} {
		got, err := db.Sidecars(t.Context(), target)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	for target, want := range map[string]time.Time{"here": noon, "elsewhere": {}} {
		got, err := db.ClockSeen(t.Context(), target)
		if err != nil || !got.Equal(want) {
			t.Errorf("%v %v", got, err)
		}
	}
	if err := db.ForgetVerifications(t.Context(), "here", []string{"a", "never"}); err != nil {
		t.Fatal(err)
	}
	if got, err := db.Verifications(t.Context(), "here"); err != nil || len(got) > 0 {
		t.Errorf("%v %v", got, err)
	}
}

func TestOnlyItsUserMayReadIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	db := open(t, dir)
	if err := db.SeeClock(t.Context(), "here", noon); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || seen < 3 {
		t.Errorf("%d files, %v", seen, err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	if err := state.SetVersion(db, 99); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := state.Open(t.Context(), state.Config{Dir: dir})
	if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "was written by a newer n8keep (schema 99, this one knows 2)") || !strings.Contains(problem.HintOf(err), "--state-dir") {
		t.Errorf("got %v (hint %q)", err, problem.HintOf(err))
	}
	if _, err := os.Stat(filepath.Join(dir, state.FileName)); err != nil {
		t.Errorf("it was touched: %v", err)
	}
}

func TestDamagedFileIsPutAside(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"no database": func(t *testing.T, path string) { overwrite(t, path, 0, []byte("this is not what it was")) },
		"schema page": func(t *testing.T, path string) { overwrite(t, path, 100, bytes.Repeat([]byte{0xff}, 300)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			db := open(t, dir)
			if err := db.SeeClock(t.Context(), "here", noon); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, state.FileName)
			damage(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			db, err = state.Open(t.Context(), state.Config{Dir: dir, Now: func() time.Time { return noon }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if seen, err := db.ClockSeen(t.Context(), "here"); err != nil || !seen.IsZero() {
				t.Errorf("%v %v", seen, err)
			}
			if !strings.Contains(log.String(), "damaged and begun anew") {
				t.Errorf("log %q", log.String())
			}
			aside, err := os.ReadFile(path + ".damaged-20261120T120000.000Z")
			if err != nil || !bytes.Equal(aside, before) {
				t.Errorf("what was put aside is not what was there: %v", err)
			}
		})
	}
}

// TestDamageMetLater: only a page of data is damaged, which opening does not see.
func TestDamageMetLater(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	var many []state.Sidecar
	for i := range 200 {
		many = append(many, state.Sidecar{Name: fmt.Sprintf("%04d.json", i), Size: 1000, ModTime: noon, Content: bytes.Repeat([]byte("x"), 1000)})
	}
	if err := db.UpdateSidecars(t.Context(), "here", many, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, state.FileName)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, 10*4096, bytes.Repeat([]byte{0xff}, int(info.Size())-10*4096))
	db = open(t, dir)
	_, err = db.Sidecars(t.Context(), "here")
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(problem.HintOf(err), "move it away") {
		t.Errorf("got %v (hint %q)", err, problem.HintOf(err))
	}
}

func overwrite(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			db, err := state.Open(t.Context(), state.Config{Dir: dir}) // as several processes do
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			for j := range 10 {
				if err := db.RecordVerification(t.Context(), "here", state.Verification{Archive: fmt.Sprint(i, j), Level: "quick", Time: noon, Outcome: state.Sound}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if all, err := open(t, dir).Verifications(t.Context(), "here"); err != nil || len(all) != 80 {
		t.Errorf("%d of 80, %v", len(all), err)
	}
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := state.Open(t.Context(), state.Config{Dir: filepath.Join(dir, "file", "state")})
	if problem.KindOf(err) != problem.Unexpected || !strings.Contains(err.Error(), "making the state folder") || !strings.Contains(problem.HintOf(err), "--state-dir") {
		t.Errorf("got %v (hint %q)", err, problem.HintOf(err))
	}
	if err := os.Mkdir(filepath.Join(dir, state.FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = state.Open(t.Context(), state.Config{Dir: dir})
	if problem.KindOf(err) != problem.Unexpected || !strings.Contains(err.Error(), "opening the state database") {
		t.Errorf("got %v (hint %q)", err, problem.HintOf(err))
	}
}
