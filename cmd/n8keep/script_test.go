package main

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"n8keep": func() { os.Exit(run()) }, "n8keep-way-back": wayBack})
}

// TestScript runs the command line as a user does. The scripts have these
// commands besides testscript's own:
//
//	fixture NAME DIR     a .n8n folder that a real n8n wrote
//	exits CODE CMD...    runs CMD and wants that exit code
//	identity FILE        an age identity in FILE; $RECIPIENT is its public key
//	hybrid FILE          a post-quantum public key in FILE
//	sql FILE STATEMENT   changes an SQLite database
//	flip FILE            one bit in the middle of FILE
//	cut FILE N           takes N bytes from the end
//	writekey FILE TEXT   a key file without newline
//	sidecar DIR          $ID is the id of the newest archive in DIR
//	rotation             $ROT is the id of the newest rotation
func TestScript(t *testing.T) {
	fixtures, err := filepath.Abs("../../testdata/fixtures")
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(scripts) < 8 {
		t.Fatalf("found only %d scripts: %v", len(scripts), err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("XDG_CONFIG_HOME", "")
			e.Setenv("XDG_STATE_HOME", "")
			e.Setenv("NO_COLOR", "1")
			e.Setenv("FIXTURES", fixtures)
			return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fixture":  fixtureCmd,
			"exits":    exitsCmd,
			"identity": identityCmd,
			"hybrid":   hybridCmd,
			"sql":      sqlCmd,
			"flip":     flipCmd,
			"cut":      cutCmd,
			"writekey": writeKeyCmd,
			"sidecar":  sidecarCmd,
			"rotation": rotationCmd,
		},
	})
}

func fixtureCmd(ts *testscript.TestScript, _ bool, args []string) {
	from, to := filepath.Join(ts.Getenv("FIXTURES"), args[0]), ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(to, 0o700))
	for _, name := range []string{"config", "database.sqlite"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(to, name), b, 0o600))
	}
}

func exitsCmd(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func identityCmd(ts *testscript.TestScript, _ bool, args []string) {
	id, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(id.String()+"\n"), 0o600))
	ts.Setenv("RECIPIENT", id.Recipient().String())
}

func hybridCmd(ts *testscript.TestScript, _ bool, args []string) {
	id, err := age.GenerateHybridIdentity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("# post-quantum\n"+id.Recipient().String()+"\n"), 0o600))
}

func sqlCmd(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(args[1])
	ts.Check(err)
	_, err = db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	ts.Check(err)
}

func flipCmd(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

func cutCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b[:len(b)-n], 0o600))
}

func writeKeyCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(args[1]), 0o600))
}

func sidecarCmd(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*.json"))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("no sidecar in %s", args[0])
	}
	base := filepath.Base(names[len(names)-1])
	ts.Setenv("ID", string(bytes.TrimSuffix([]byte(base), []byte(".json"))))
}

func rotationCmd(ts *testscript.TestScript, _ bool, _ []string) {
	names, err := filepath.Glob(filepath.Join(ts.MkAbs("home/.local/state/n8keep/rotations"), "*", "journal.json"))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("there is no rotation")
	}
	ts.Setenv("ROT", filepath.Base(filepath.Dir(names[len(names)-1])))
}
