// Package layers holds no code, only the test that keeps the packages in order.
//
// The table of ARCHITECTURE.md is the rule: each package of the module stands in
// it with its layer and imports only packages of lower layers. Within layer 0 a
// package may import one that imports none of ours. Test kits are imported by
// tests and test kits alone, and SQL is spoken in the packages that are named for
// it. Imports of test files are free.
package layers

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/n8keep/n8keep"

// listed is a package as the go command sees it.
type listed struct {
	ImportPath string
	GoFiles    []string
	Imports    []string
}

// row is a package in ARCHITECTURE.md.
type row struct {
	layer int
	kit   bool // a test kit
	sql   bool // may speak SQL
}

var tableRow = regexp.MustCompile("(?m)^\\| `([^`]+)`(?: \\(([^)]*)\\))? \\| ([0-9]) \\| .+ \\|$")

func table(t *testing.T) map[string]row {
	t.Helper()
	b, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for _, m := range tableRow.FindAllStringSubmatch(string(b), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("ARCHITECTURE.md has %s twice", m[1])
		}
		layer, err := strconv.Atoi(m[3])
		if err != nil {
			t.Fatal(err)
		}
		marks := strings.Split(m[2], ", ")
		rows[m[1]] = row{layer, slices.Contains(marks, "test kit"), slices.Contains(marks, "SQL")}
	}
	if len(rows) < 10 {
		t.Fatalf("only %d packages in the table of ARCHITECTURE.md", len(rows))
	}
	return rows
}

// packages are those of the module that have code besides tests.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,GoFiles,Imports", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := map[string]listed{}
	for dec := json.NewDecoder(out); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			all[strings.TrimPrefix(p.ImportPath, module+"/")] = p
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("go list names only %d packages", len(all))
	}
	return all
}

func (p listed) ours() []string {
	var list []string
	for _, i := range p.Imports {
		if s, ok := strings.CutPrefix(i, module+"/"); ok {
			list = append(list, s)
		}
	}
	return list
}

func TestLayers(t *testing.T) {
	rows, all := table(t), packages(t)
	for name := range rows {
		if _, ok := all[name]; !ok {
			t.Errorf("%s stands in the table of ARCHITECTURE.md, but there is no such package", name)
		}
	}
	for name, p := range all {
		r, ok := rows[name]
		if !ok {
			t.Errorf("%s is missing in the table of ARCHITECTURE.md", name)
			continue
		}
		for _, i := range p.ours() {
			on := rows[i]
			leaf := r.layer == 0 && on.layer == 0 && len(all[i].ours()) == 0
			if on.layer >= r.layer && !leaf {
				t.Errorf("%s (layer %d) imports %s (layer %d)", name, r.layer, i, on.layer)
			}
			if on.kit && !r.kit {
				t.Errorf("%s imports the test kit %s outside tests", name, i)
			}
		}
	}
}

// TestPublicPackagesStandAlone: who needs a backup after we are gone can take
// these two folders.
func TestPublicPackagesStandAlone(t *testing.T) {
	allowed := map[string]*regexp.Regexp{
		"n8ncrypt": regexp.MustCompile(`^[a-z0-9]+(/[a-z0-9]+)*$`),
		"archive":  regexp.MustCompile(`^([a-z0-9]+(/[a-z0-9]+)*|filippo\.io/age.*|github\.com/klauspost/compress/.*)$`),
	}
	all := packages(t)
	for name, re := range allowed {
		if len(all[name].Imports) == 0 {
			t.Errorf("%s imports nothing", name)
		}
		for _, i := range all[name].Imports {
			if !re.MatchString(i) {
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
}

func TestSQLStaysWhereItBelongs(t *testing.T) {
	drivers := regexp.MustCompile(`^(database/sql|modernc\.org/sqlite|github\.com/jackc/pgx)(/|$)|^github\.com/jackc/pgx/v5`)
	rows, speakers := table(t), 0
	for name, p := range packages(t) {
		if !slices.ContainsFunc(p.Imports, drivers.MatchString) {
			continue
		}
		speakers++
		if r := rows[name]; !r.sql && !r.kit {
			t.Errorf("%s imports a database driver; SQL belongs into the packages marked SQL in ARCHITECTURE.md", name)
		}
	}
	if speakers == 0 {
		t.Error("no package imports a database driver")
	}
}
