package n8nhome

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"unicode/utf8"

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
// NotFound and satisfies errors.Is(err, fs.ErrNotExist). A link to nowhere, and
// a file that cannot be read, is not JSON or has no encryptionKey, are Usage, since
// n8n could not start with them either. No error shows what is in the file.
func ReadConfig(dir string) (Config, error) {
	path := filepath.Join(dir, configName)
	b, info, err := readSmall(path, configLimit, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, err := os.Readlink(path); err == nil {
			return Config{}, problem.New(problem.Usage, "n8n's settings file %q is a symbolic link to %q, which does not exist", path, target).
				WithHint("put the file there, or remove the link; if you know the key, give it with --key-file FILE")
		}
		e := problem.New(problem.NotFound, "n8n's settings file %q does not exist", path)
		e.Err = err
		return Config{}, e
	case err != nil:
		return Config{}, problem.Wrap(problem.Usage, cause(err), "n8n's settings file %q cannot be read", path).
			WithHint("%s", readHint(err)).
			WithHint("if you know the key, give it with --key-file FILE")
	}
	var content struct {
		EncryptionKey *string `json:"encryptionKey"`
	}
	// What the JSON decoder says may quote the file.
	if err := json.Unmarshal(b, &content); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) && kind.Field == "encryptionKey" {
			return Config{}, problem.New(problem.Usage, "n8n's settings file %q has an encryptionKey that is not a string", path).
				WithHint("put quotes around it, or, if you know the key, give it with --key-file FILE")
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
		return Config{}, problem.New(problem.Usage, "n8n's settings file %q has an encryptionKey that is not text", path).
			WithHint("n8n makes keys of letters and digits; if you know the key, give it with --key-file FILE")
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
		return problem.Wrap(problem.Unexpected, err, "writing n8n's settings file").WithHint("%s", writeHint)
	}
	defer f.Abort()
	if owner != nil {
		if err := f.Chown(owner.UID, owner.GID); err != nil {
			return problem.Wrap(problem.Unexpected, cause(err), "giving %q to user %d and group %d", path, owner.UID, owner.GID).
				WithHint("only root can give files away: run as root, or leave --owner out")
		}
	}
	if _, err := f.Write(FormatConfig(key)); err != nil {
		return problem.Wrap(problem.Unexpected, cause(err), "writing n8n's settings file %q", path).WithHint("%s", writeHint)
	}
	err = f.CommitNew()
	if errors.Is(err, fs.ErrExist) {
		return problem.Wrap(problem.Usage, fs.ErrExist, "writing n8n's settings file %q", path).
			WithHint("it is never overwritten: move it away, or leave it as it is with --no-config")
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing n8n's settings file").WithHint("%s", writeHint)
	}
	return nil
}

// FormatConfig is the content of a settings file with nothing but the key:
// JSON.stringify with tabs, no newline at the end.
func FormatConfig(key n8ncrypt.InstanceKey) []byte {
	b := appendJSONString([]byte("{\n\t\"encryptionKey\": "), key.Reveal())
	return append(b, "\n}"...)
}

// appendJSONString is JSON.stringify of a text.
func appendJSONString(b []byte, text string) []byte {
	b = append(b, '"')
	for _, r := range text {
		switch r {
		case '"', '\\':
			b = append(b, '\\', byte(r))
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if r < ' ' {
				b = fmt.Appendf(b, `\u%04x`, r)
			} else {
				b = utf8.AppendRune(b, r)
			}
		}
	}
	return append(b, '"')
}

const writeHint = "the user who runs n8keep must be able to write that folder, and its disk must have room"

var (
	errFolder  = errors.New("it is a folder")
	errSpecial = errors.New("it is neither a file nor a folder")
	errSize    = errors.New("it is too large")
	errLink    = errors.New("it is a symbolic link")
)

// readSmall reads a file of bounded size. A pipe by any other name than those of
// openFile, a socket or a device is refused: nobody may be writing to it, and
// reading would never end.
func readSmall(path string, limit int64, openToo bool) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, nil, err
	case info.IsDir():
		return nil, nil, errFolder
	case !info.Mode().IsRegular() && !(openToo && openFile.MatchString(path)):
		return nil, nil, errSpecial
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", errSize, limit)
	}
	return b, info, err
}

// openRegular opens a file of that very name: no link, and nothing that could block.
func openRegular(path string, flag int) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, errLink
	}
	if errors.Is(err, syscall.ENXIO) { // a named pipe that nobody reads, a socket
		return nil, nil, errSpecial
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errFolder
	} else if err == nil && !info.Mode().IsRegular() {
		err = errSpecial
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// readRegular reads a small file without following a link.
func readRegular(path string, limit int64) ([]byte, fs.FileInfo, error) {
	f, info, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", errSize, limit)
	}
	return b, info, err
}

// openFile matches the names of what the process was started with: standard
// input, and the <(command) of shells.
var openFile = regexp.MustCompile(`^(/dev/stdin|(/dev|/proc/self)/fd/\d+)$`)

// readHint is the next step after an error of readSmall.
func readHint(err error) string {
	switch {
	case errors.Is(err, errFolder):
		return "name the file itself, not the folder"
	case errors.Is(err, errSpecial):
		return "give a regular file; named pipes and devices are not read"
	case errors.Is(err, errLink):
		return "somebody has put a link there; put the file back, and look who writes to its folder"
	case errors.Is(err, errSize):
		return "this is another file than you think: look what it is"
	case errors.Is(err, fs.ErrPermission):
		return "run as the user that runs n8n, or as root"
	}
	return "check the path and the disk it is on"
}
