package n8nhome

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const configName = "config"

// configLimit is far above any config file that n8n writes.
const configLimit = 1 << 20

// Config is n8n's settings file, <dir>/config:
//
//	{
//		"encryptionKey": "...",
//		"tunnelSubdomain": "...",
//		"fsStorageMigrated": true
//	}
//
// The last two are optional. n8n takes the key as it stands there, without
// removing anything from it.
type Config struct {
	Path string
	Mode fs.FileMode
	Key  n8ncrypt.InstanceKey
}

// ReadConfig reads the settings file of n8n's folder. A missing file is
// NotFound and satisfies errors.Is(err, fs.ErrNotExist). A file that cannot be
// read, is not JSON or has no encryptionKey is Usage, since n8n could not start
// with it either. No error shows what is in the file.
func ReadConfig(dir string) (Config, error) {
	path := filepath.Join(dir, configName)
	b, info, err := readSmall(path, configLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := problem.New(problem.NotFound, "n8n's settings file %q does not exist", path)
		e.Err = err
		return Config{}, e
	case err != nil:
		return Config{}, problem.Wrap(problem.Usage, cause(err), "n8n's settings file %q cannot be read", path).
			WithHint("run as the user that runs n8n, or as root")
	}
	var content struct {
		EncryptionKey *string `json:"encryptionKey"`
	}
	// What the JSON decoder says may quote the file.
	if err := json.Unmarshal(b, &content); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) && kind.Field == "encryptionKey" {
			return Config{}, problem.New(problem.Usage, "n8n's settings file %q has an encryptionKey that is not a string", path)
		}
		return Config{}, problem.New(problem.Usage, "n8n's settings file %q is not JSON", path).
			WithHint("n8n cannot start with it either; if you know the key, give it with --key-file FILE")
	}
	if content.EncryptionKey == nil || *content.EncryptionKey == "" {
		return Config{}, problem.New(problem.Usage, "n8n's settings file %q has no encryptionKey", path).
			WithHint("if you know the key, give it with --key-file FILE")
	}
	key, err := n8ncrypt.NewInstanceKey(*content.EncryptionKey)
	if err != nil {
		return Config{}, problem.New(problem.Usage, "n8n's settings file %q has an encryptionKey that is not text", path)
	}
	return Config{Path: path, Mode: info.Mode(), Key: key}, nil
}

// Owner is who owns a file; nil *Owner leaves that to the system.
type Owner struct{ UID, GID int }

// WriteConfig makes the settings file of n8n's folder with the key, byte for
// byte as n8n 1.x and 2.x write it, mode 0600, on the disk when it returns. A
// file that is there already is left alone and is an error of kind Usage that
// satisfies errors.Is(err, fs.ErrExist).
func WriteConfig(dir string, key n8ncrypt.InstanceKey, owner *Owner) error {
	path := filepath.Join(dir, configName)
	f, err := durable.Create(path, 0o600)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing n8n's settings file")
	}
	defer f.Abort()
	if owner != nil {
		if err := f.Chown(owner.UID, owner.GID); err != nil {
			return problem.Wrap(problem.Unexpected, cause(err), "giving %q to user %d and group %d", path, owner.UID, owner.GID)
		}
	}
	if _, err := f.Write(FormatConfig(key)); err != nil {
		return problem.Wrap(problem.Unexpected, cause(err), "writing n8n's settings file %q", path)
	}
	err = f.CommitNew()
	if errors.Is(err, fs.ErrExist) {
		return problem.Wrap(problem.Usage, fs.ErrExist, "writing n8n's settings file %q", path)
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing n8n's settings file")
	}
	return nil
}

// FormatConfig is the content of a settings file with nothing but the key:
// JSON.stringify with tabs, no newline at the end.
func FormatConfig(key n8ncrypt.InstanceKey) []byte {
	var b bytes.Buffer
	b.WriteString("{\n\t\"encryptionKey\": \"")
	for _, r := range key.Reveal() {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		default:
			if r < ' ' {
				fmt.Fprintf(&b, `\u%04x`, r)
			} else {
				b.WriteRune(r)
			}
		}
	}
	b.WriteString("\"\n}")
	return b.Bytes()
}

// readSmall reads a regular file of bounded size.
func readSmall(path string, limit int64) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		return nil, nil, errors.New("it is a folder")
	}
	// A pipe is read too: shells pass keys as <(command).
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, info, err
}
