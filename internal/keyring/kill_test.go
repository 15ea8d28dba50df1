package keyring

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	dir := os.Getenv("KEYRING_TEST_STATE")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := secondRotation(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func secondRotation(dir string) error {
	key := func(letter string) Key {
		k, _ := n8ncrypt.NewInstanceKey("keyring-test-key-" + letter + "-ü")
		return Key{Key: k, Fingerprint: n8ncrypt.Fingerprint("n8k1-" + strings.Repeat(letter, 16))}
	}
	_, err := quick(New(Config{StateDir: dir})).Activate(context.Background(), Activation{Instance: "prod", Old: key("b"), New: key("c")})
	return err
}

// TestKilledAnywhere kills a finalise at each point. The keyring is the old one or
// the new one, and the repeated finalise ends with the new one.
func TestKilledAnywhere(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "killed.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	run := func(mode string) (*Ring, error) {
		dir := t.TempDir()
		r := quick(New(Config{StateDir: dir}))
		activate(t, r, "prod", a, b)
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), "KEYRING_TEST_STATE="+dir, "N8KEEP_FAILPOINT="+mode)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return r, err
	}
	list := filepath.Join(t.TempDir(), "points")
	if _, err := run("list:" + list); err != nil {
		t.Fatal(err)
	}
	points, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"keyring.locked", "keyring.sealed", "durable.created", "durable.synced", "durable.renamed", "durable.dir-synced", "keyring.written"} {
		if !strings.Contains(string(points), want) {
			t.Errorf("point %q is never passed", want)
		}
	}
	before, after := 0, 0
	for i, point := range strings.Split(strings.TrimSpace(string(points)), "\n") {
		r, err := run(fmt.Sprintf("kill:%d", i+1))
		if err == nil || !strings.Contains(err.Error(), syscall.SIGKILL.String()) {
			t.Fatalf("%s: not killed: %v", point, err)
		}
		e, ok, err := r.Instance("prod")
		if err != nil || !ok {
			t.Fatalf("%s: %v", point, err)
		}
		switch e.Active.Fingerprint {
		case b.Fingerprint:
			before++
			if got := opened(t, r, "prod", b); got != "a" {
				t.Errorf("%s: with the old key: %q", point, got)
			}
		case c.Fingerprint:
			after++
			if got := opened(t, r, "prod", c); got != "ba" {
				t.Errorf("%s: with the new key: %q", point, got)
			}
		}
		activate(t, r, "prod", b, c)
		if got := opened(t, r, "prod", c); got != "ba" {
			t.Errorf("%s: repeated: %q", point, got)
		}
	}
	if before < 4 || after < 3 {
		t.Errorf("%d kills left the old keyring, %d the new one", before, after)
	}
}
