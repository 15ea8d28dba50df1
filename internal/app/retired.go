package app

import (
	"context"
	"errors"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/keyring"
	"github.com/n8keep/n8keep/internal/problem"
)

// retiredKey is the key of an archive that was made before a rotation: the key at
// hand opens it in the keyring. It is used only when the user says so, because a
// restore gives n8n that key again.
func (a *App) retiredKey(ctx context.Context, o ArchiveOptions, side archive.Sidecar, key resolvedKey) (resolvedKey, error) {
	if !o.RetiredKey || key.key.IsZero() || string(key.key.Fingerprint()) == side.KeyFingerprint {
		return key, nil
	}
	ring := keyring.New(keyring.Config{StateDir: a.StateDir, Now: a.Now})
	retired, err := ring.Retired(ctx, side.Instance, key.key)
	if err != nil {
		return key, err
	}
	for _, r := range retired {
		if string(r.Fingerprint) == side.KeyFingerprint && !r.Key.IsZero() {
			return resolvedKey{key: r.Key, source: api.KeySource{Source: "keyring", Where: ring.Path()}, warnings: key.warnings}, nil
		}
	}
	return key, problem.New(problem.WrongKey, "the keyring has no key %s of archive %q", side.KeyFingerprint, side.ID).
		WithHint("give the key that n8n had then with --key-file FILE")
}

// hintRetired says of a key that is not the archive's that the keyring has the right
// one, unless the user has asked for that already.
func (a *App) hintRetired(err error, side archive.Sidecar, o ArchiveOptions) {
	var p *problem.Error
	if o.RetiredKey || !errors.As(err, &p) || p.Kind != problem.WrongKey {
		return
	}
	entry, ok, err := keyring.New(keyring.Config{StateDir: a.StateDir, Now: a.Now}).Instance(side.Instance)
	if err != nil || !ok {
		return
	}
	for _, r := range entry.Retired {
		if string(r.Fingerprint) == side.KeyFingerprint && r.Under != "" {
			p.WithHint("%s was retired on %s, and the keyring has it: with the key %s, add --retired-key", r.Fingerprint, r.To.UTC().Format("2006-01-02"), r.Under)
		}
	}
}
