package app

import (
	"strings"
	"testing"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/keyring"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestHintRetired: --retired-key is named where it helps, and not to who has given it.
func TestHintRetired(t *testing.T) {
	a := &App{Options: Options{StateDir: t.TempDir()}}
	key := func(text string) keyring.Key {
		k, err := n8ncrypt.NewInstanceKey(text)
		if err != nil {
			t.Fatal(err)
		}
		return keyring.Key{Key: k, Fingerprint: k.Fingerprint()}
	}
	old := key("lab-key-2.41.1-0123456789abcdef")
	if _, err := keyring.New(keyring.Config{StateDir: a.StateDir}).Activate(t.Context(), keyring.Activation{Instance: "prod", Rotation: "r", Old: old, New: key("Zq8vT3mK1xR7bN5wL9pD2sG6hJ4cF0aY")}); err != nil {
		t.Fatal(err)
	}
	side := archive.Sidecar{Instance: "prod", KeyFingerprint: string(old.Fingerprint)}
	for _, given := range []bool{false, true} {
		err := problem.New(problem.WrongKey, "the key does not fit")
		a.hintRetired(err, side, ArchiveOptions{RetiredKey: given})
		if got := strings.Contains(problem.HintOf(err), "add --retired-key"); got == given {
			t.Errorf("given %v: hint %q", given, problem.HintOf(err))
		}
	}
}
