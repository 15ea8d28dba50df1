package n8nhome

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/secret"
)

// keyFileJob is what a process does that is killed.
type keyFileJob struct {
	Do     string // stage, apply, undo
	File   KeyFile
	Staged StagedFile // for apply and undo
	New    string
	Before string
}

func (j keyFileJob) change(t testing.TB) KeyChange {
	return KeyChange{Old: instanceKey(t, wasKey), New: instanceKey(t, j.New), Before: secret.NewBytes([]byte(j.Before))}
}

const keyFileJobVariable = "N8NHOME_TEST_JOB"

// TestKeyFileJob is the process that is killed.
func TestKeyFileJob(t *testing.T) {
	text := os.Getenv(keyFileJobVariable)
	if text == "" {
		return
	}
	var j keyFileJob
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		t.Fatal(err)
	}
	var err error
	switch j.Do {
	case "stage":
		_, err = j.File.Stage(j.change(t))
	case "apply":
		err = j.Staged.Apply(j.change(t))
	case "undo":
		_, err = j.Staged.Undo(j.change(t))
	default:
		t.Fatalf("what is %q?", j.Do)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// killAt runs a job until its n-th point; it reports false when the job ended before.
func (j keyFileJob) killAt(t *testing.T, binary string, n int) bool {
	t.Helper()
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^TestKeyFileJob$")
	cmd.Env = append(os.Environ(), keyFileJobVariable+"="+string(b), fmt.Sprintf("N8KEEP_FAILPOINT=kill:%d", n))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed but: %v\n%s", err, out)
	}
	return true
}

// TestKeyFilesKilled kills Stage, Apply and Undo at every point, and then goes on, or
// back. The file is whole at any time, but for a write in place, and in the end holds
// what it should, with nothing beside it.
func TestKeyFilesKilled(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "failpoint.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building with failpoints: %v\n%s", err, out)
	}
	for _, tt := range []struct {
		name    string
		form    KeyForm
		before  string
		newKey  string
		inPlace bool
	}{
		{"config", ConfigForm, oldConfig, isKey, false},
		{"key file", PlainForm, wasKey + "\n", isKey, false},
		{"in place, longer", ConfigForm, oldConfig, strings.Repeat(isKey, 3), true},
		{"in place, shorter", PlainForm, "\"" + wasKey + "\"\n", "short", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// start is the folder before a job.
			start := func(do string) keyFileJob {
				dir := t.TempDir()
				j := keyFileJob{Do: do, File: KeyFile{tt.form, filepath.Join(dir, "file")}, New: tt.newKey, Before: tt.before}
				if err := os.WriteFile(j.File.Name, []byte(tt.before), 0o640); err != nil {
					t.Fatal(err)
				}
				if do == "stage" && !tt.inPlace {
					return j
				}
				var err error
				if j.Staged, err = j.File.Stage(j.change(t)); err != nil {
					t.Fatal(err)
				}
				if tt.inPlace {
					if err := j.Staged.Discard(); err != nil {
						t.Fatal(err)
					}
					j.Staged.Staged, j.Staged.InPlace = "", "it is a mount point"
				}
				if do == "undo" {
					if err := j.Staged.Apply(j.change(t)); err != nil {
						t.Fatal(err)
					}
				}
				return j
			}
			after, err := edited(KeyFile{tt.form, "f"}, []byte(tt.before), instanceKey(t, tt.newKey))
			if err != nil {
				t.Fatal(err)
			}
			jobs := []string{"stage", "apply", "undo"}
			if tt.inPlace {
				jobs = jobs[1:]
			}
			total, torn := 0, 0
			for _, do := range jobs {
				for _, then := range []string{"apply", "undo"} {
					n := 1
					for ; ; n++ {
						j := start(do)
						if !j.killAt(t, binary, n) {
							break
						}
						where := fmt.Sprintf("%s killed at point %d, then %s", do, n, then)
						if now := content(t, j.File.Name); now != tt.before && now != string(after) {
							if !tt.inPlace {
								t.Fatalf("%s: torn: %q", where, now)
							}
							torn++
						}
						if do == "stage" {
							// The journal does not know of it: it is made again.
							if j.Staged, err = j.File.Stage(j.change(t)); err != nil {
								t.Fatalf("%s: %v", where, err)
							}
						}
						want := tt.before
						if then == "apply" {
							want, err = string(after), j.Staged.Apply(j.change(t))
						} else {
							_, err = j.Staged.Undo(j.change(t))
						}
						if err != nil {
							t.Fatalf("%s: %v", where, err)
						}
						if now := content(t, j.File.Name); now != want {
							t.Fatalf("%s: %q, want %q", where, now, want)
						}
						info, err := os.Stat(j.File.Name)
						if err != nil || info.Mode() != 0o640 {
							t.Fatalf("%s: %v %v", where, info.Mode(), err)
						}
						if then == "undo" {
							err = j.Staged.Discard()
						}
						if got := names(t, filepath.Dir(j.File.Name)); err != nil || !cmp.Equal(got, []string{"file"}) {
							t.Fatalf("%s: %v %v", where, got, err)
						}
						total++
					}
					if n < 4 {
						t.Errorf("%s passes only %d points", do, n-1)
					}
				}
			}
			if total < 12 || tt.inPlace && torn == 0 {
				t.Errorf("%d kills, %d torn", total, torn)
			}
		})
	}
}
