package app

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// KeyGenerate writes a new instance key, 32 random bytes as hexadecimal digits,
// to a file that must not exist.
func KeyGenerate(out string) (*api.Key, error) {
	var raw [32]byte
	rand.Read(raw[:])
	text := hex.EncodeToString(raw[:])
	key, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making a key")
	}
	if err := writeKey(out, text); err != nil {
		return nil, err
	}
	return &api.Key{Fingerprint: string(key.Fingerprint()), Out: out, Warnings: []string{}}, nil
}

// writeKey makes a key file, which must not exist.
func writeKey(out, text string) error {
	f, err := durable.Create(out, 0o600)
	if err != nil {
		return problem.Wrap(problem.Usage, err, "writing the key").WithHint("name a file in a folder that exists and that this user may write")
	}
	defer f.Abort()
	if _, err := f.WriteString(text); err != nil {
		// The path in the error is that of a temporary file.
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return problem.Wrap(problem.Unexpected, err, "writing the key to %q", out).WithHint("%s", keyNotWritten)
	}
	if err := f.CommitNew(); errors.Is(err, fs.ErrExist) {
		return problem.New(problem.Usage, "file %q exists already", out).WithHint("name a new file: a key is never overwritten")
	} else if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing the key").WithHint("%s", keyNotWritten)
	}
	return nil
}

const keyNotWritten = "name a file on a disk that has room and allows hard links: --out FILE"
