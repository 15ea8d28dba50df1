package keyring

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func TestMain(m *testing.M) { os.Exit(failtest.Main(m.Run, secondRotation)) }

// secondRotation is what the process does that is killed.
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
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	first := func() (*Ring, string) {
		dir := t.TempDir()
		r := quick(New(Config{StateDir: dir}))
		activate(t, r, "prod", a, b)
		return r, dir
	}
	_, dir := first()
	points := failtest.Points(t, dir)
	for _, want := range []string{"keyring.locked", "keyring.sealed", "durable.created", "durable.synced", "durable.renamed", "durable.dir-synced", "keyring.written"} {
		if !slices.Contains(points, want) {
			t.Errorf("point %q is never passed", want)
		}
	}
	before, after := 0, 0
	for i, point := range points {
		r, dir := first()
		failtest.MustKill(t, dir, i+1)
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
