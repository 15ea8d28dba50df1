package n8nhome

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// keyFileJob is what a process does that is killed.
type keyFileJob struct {
	Do     string // stage, apply, undo, changeable
	File   KeyFile
	Staged StagedFile // for all but stage
	New    string
	Before string
}

func (j keyFileJob) change() KeyChange {
	key := func(text string) n8ncrypt.InstanceKey {
		k, err := n8ncrypt.NewInstanceKey(text)
		if err != nil {
			panic(err)
		}
		return k
	}
	return KeyChange{Old: key(wasKey), New: key(j.New), Before: secret.NewBytes([]byte(j.Before))}
}

func (j keyFileJob) do() (err error) {
	switch j.Do {
	case "stage":
		_, err = j.File.Stage(j.change())
	case "apply":
		err = j.Staged.Apply(j.change())
	case "undo":
		_, err = j.Staged.Undo(j.change())
	case "changeable":
		err = j.Staged.Changeable(j.change())
	default:
		err = fmt.Errorf("what is %q?", j.Do)
	}
	return err
}

// TestKeyFilesKilled kills Stage, Apply, Undo and Changeable at every point, and then goes on, or
// back. The file is whole at any time, but for a write in place, and in the end holds
// what it should, with nothing beside it.
func TestKeyFilesKilled(t *testing.T) {
	t.Parallel()
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
				if j.Staged, err = j.File.Stage(j.change()); err != nil {
					t.Fatal(err)
				}
				if tt.inPlace {
					if err := j.Staged.Discard(); err != nil {
						t.Fatal(err)
					}
					j.Staged.Staged, j.Staged.InPlace = "", "it is a mount point"
				}
				if do == "undo" || do == "changeable" {
					if err := j.Staged.Apply(j.change()); err != nil {
						t.Fatal(err)
					}
				}
				return j
			}
			after, err := edited(KeyFile{tt.form, "f"}, []byte(tt.before), instanceKey(t, tt.newKey))
			if err != nil {
				t.Fatal(err)
			}
			jobs := []string{"stage", "apply", "undo", "changeable"}
			if tt.inPlace {
				jobs = jobs[1:3]
			}
			total, torn := 0, 0
			for _, do := range jobs {
				for _, then := range []string{"apply", "undo"} {
					n := 1
					for ; ; n++ {
						j := start(do)
						if !failtest.Kill(t, j, n) {
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
							if j.Staged, err = j.File.Stage(j.change()); err != nil {
								t.Fatalf("%s: %v", where, err)
							}
						}
						want := tt.before
						if then == "apply" {
							want, err = string(after), j.Staged.Apply(j.change())
						} else {
							_, err = j.Staged.Undo(j.change())
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
					if n < 4 && do != "changeable" || n < 3 {
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
