//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/labn8n"
)

// state is what n8n itself says it holds.
type state struct {
	credentials, workflows map[string]map[string]any
	executions             map[string]labn8n.Execution
}

// look asks n8n's command line for the exports, and the running server c talks to, with the owner's login, for executions.
func look(t *testing.T, in labn8n.Instance, c *labn8n.Client, f *labn8n.Facts) state {
	t.Helper()
	s := state{credentials: in.ExportCredentials(t), workflows: in.ExportWorkflows(t)}
	if err := c.Login(t.Context(), f.Email, f.Password, f.MFASecret); err != nil {
		t.Fatalf("login with MFA: %v", err)
	}
	var err error
	if s.executions, err = c.Executions(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// compareCredentials demands equality in every field, but for the two that the writer changed: theirs must be numbers of
// the time of the backup, and of one moment.
func compareCredentials(t *testing.T, before, after state, b taken) {
	t.Helper()
	if len(before.credentials) != len(after.credentials) {
		t.Errorf("%d credentials, want %d", len(after.credentials), len(before.credentials))
	}
	number := map[string]int64{}
	for id, want := range before.credentials {
		got := after.credentials[id]
		if name := want["name"].(string); strings.HasPrefix(name, "Writer ") && got != nil {
			var n int64
			value, _ := got["data"].(map[string]any)["value"].(string)
			if _, err := fmt.Sscanf(value, "writer-value-%06d", &n); err != nil || n < b.lo || n > b.hi {
				t.Errorf("credential %q is %q, want a number from %d to %d", name, value, b.lo, b.hi)
			}
			number[name] = n
			want, got = without(want, "data", "updatedAt"), without(got, "data", "updatedAt")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("credential %s differs (-before +after):\n%s", id, diff)
		}
	}
	if ahead := number["Writer A"] - number["Writer B"]; ahead != 0 && ahead != 1 {
		t.Errorf("the writer's credentials are not of one moment: %v", number)
	}
}

// compareWorkflows demands equality in every field. Starting n8n 1.x and 2.0 adds one to the versionCounter of an active
// workflow, with or without a restore.
func compareWorkflows(t *testing.T, before, after state) {
	t.Helper()
	if len(before.workflows) != len(after.workflows) {
		t.Errorf("%d workflows, want %d", len(after.workflows), len(before.workflows))
	}
	for id, want := range before.workflows {
		got := after.workflows[id]
		was, _ := want["versionCounter"].(float64)
		is, _ := got["versionCounter"].(float64)
		if is != was && (is != was+1 || want["active"] != true) {
			t.Errorf("workflow %s has versionCounter %v, want %v", id, is, was)
		}
		if diff := cmp.Diff(without(want, "versionCounter"), without(got, "versionCounter")); diff != "" {
			t.Errorf("workflow %s differs (-before +after):\n%s", id, diff)
		}
	}
}

// compareExecutions looks for those that existed before the writer began: all of them, or only the waiting one.
func compareExecutions(t *testing.T, before, after state, history, waiting string) {
	t.Helper()
	if got := after.executions[waiting].Status; got != "waiting" {
		t.Errorf("the waiting execution is %q", got)
	}
	for id, want := range before.executions {
		got, kept := after.executions[id]
		switch {
		case history == "all" && got != want:
			t.Errorf("execution is %+v, want %+v", got, want)
		case history == "none" && kept && want.Status == "success":
			t.Errorf("a finished execution is there without history: %+v", got)
		}
	}
}

func without(m map[string]any, keys ...string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	for _, k := range keys {
		delete(out, k)
	}
	return out
}

// changesNothing checks that f leaves every file under dir as it is. A running n8n may write at the same moment, so f gets
// several tries; one that changes something itself fails them all.
func changesNothing(t *testing.T, dir string, f func()) {
	t.Helper()
	var diff string
	for range 5 {
		before := files(t, dir)
		f()
		if diff = cmp.Diff(before, files(t, dir)); diff == "" {
			return
		}
	}
	t.Errorf("files changed (-before +after):\n%s", diff)
}

// files describes every file under dir by mode, size, time and content. SQLite's -shm is lock memory that every reader
// writes its marks into: of it only mode and size count.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		says := fmt.Sprintf("%s %d", info.Mode(), info.Size())
		if !strings.HasSuffix(path, "-shm") {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			says += fmt.Sprintf(" %s %x", info.ModTime(), sha256.Sum256(content))
		}
		found[path] = says
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no files under %s", dir)
	}
	return found
}
