package n8nhome

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"unicode/utf8"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// KeyForm is how a file holds the instance key.
type KeyForm string

// The forms.
const (
	ConfigForm KeyForm = "config"   // n8n's settings file: the member encryptionKey of a JSON object
	PlainForm  KeyForm = "key-file" // nothing but the key, with the white space and quotes that n8n 1.116 and later remove
)

const keyFileLimit = 64 << 10

// KeyFile is a file from which n8n takes its instance key, and in which a rotation
// changes it. The zero KeyFile is none.
type KeyFile struct {
	Form KeyForm `json:"form"`
	Name string  `json:"path"` // as it was given; links in it are followed
}

// ConfigKeyFile is the settings file of n8n's folder.
func ConfigKeyFile(dir string) KeyFile {
	return KeyFile{ConfigForm, filepath.Join(dir, configName)}
}

// PlainKeyFile is a file that N8N_ENCRYPTION_KEY_FILE names.
func PlainKeyFile(path string) KeyFile { return KeyFile{PlainForm, path} }

// Path is where the file is: absolute, links followed as far as they lead.
func (f KeyFile) Path() string {
	path := f.Name
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}

// Changeable says why the user that runs n8keep cannot change the file; nil if it can.
func (f KeyFile) Changeable() error {
	s := StagedFile{Form: f.Form, Path: f.Path()}
	if err := s.mutable(); err != nil {
		return err
	}
	if s.InPlace = inPlace(s.Path); s.InPlace == "" {
		return nil
	}
	return s.writable()
}

func (f KeyFile) String() string {
	if f.Form == ConfigForm {
		return fmt.Sprintf("n8n's settings file %q", f.Name)
	}
	return fmt.Sprintf("key file %q", f.Name)
}

// Key reads the key that is in the file now, as n8n 1.116 and later do.
func (f KeyFile) Key() (n8ncrypt.InstanceKey, error) {
	b, _, err := f.read()
	if err != nil {
		return n8ncrypt.InstanceKey{}, err
	}
	t, err := f.parse(b)
	if err != nil {
		return n8ncrypt.InstanceKey{}, err
	}
	return t.key, nil
}

// keyText is the content of a file in three parts: what stands before the key,
// the key as it is written there, and the rest.
type keyText struct {
	head, token, tail []byte
	key               n8ncrypt.InstanceKey
}

// frame is the SHA-256 of all but the key, in hexadecimal. Nothing about the key can
// be guessed from it, as it could from a hash of the file.
func (t keyText) frame() string {
	h := sha256.New()
	fmt.Fprintf(h, "n8keep/key-file/v1 %d %d ", len(t.head), len(t.tail))
	h.Write(t.head)
	h.Write(t.tail)
	return hex.EncodeToString(h.Sum(nil))
}

func (f KeyFile) read() ([]byte, fs.FileInfo, error) {
	b, info, err := readSmall(f.Name, f.limit(), false)
	return f.readable(b, info, err)
}

// read reads the file itself: Path has no links, unless somebody has put one there.
func (s StagedFile) read() ([]byte, fs.FileInfo, error) {
	f := s.file()
	b, info, err := readRegular(s.Path, f.limit())
	return f.readable(b, info, err)
}

func (f KeyFile) limit() int64 {
	if f.Form == PlainForm {
		return keyFileLimit
	}
	return configLimit
}

func (f KeyFile) readable(b []byte, info fs.FileInfo, err error) ([]byte, fs.FileInfo, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := problem.New(problem.NotFound, "%s does not exist", f)
		e.Err = err
		return nil, nil, e
	case err != nil:
		return nil, nil, problem.Wrap(problem.Usage, cause(err), "%s cannot be read", f).WithHint("%s", readHint(err))
	}
	return b, info, nil
}

// parse finds the key in the content.
func (f KeyFile) parse(b []byte) (keyText, error) {
	if f.Form == ConfigForm {
		return f.parseConfig(b)
	}
	return f.parsePlain(b)
}

func (f KeyFile) parsePlain(b []byte) (keyText, error) {
	if settingsPattern.Match(b) {
		return keyText{}, problem.New(problem.Usage, "%s is n8n's settings file, not a key", f).
			WithHint("let N8N_ENCRYPTION_KEY_FILE name a file with nothing but the key")
	}
	if !utf8.Valid(b) {
		return keyText{}, problem.New(problem.Usage, "%s holds bytes that are not text", f).
			WithHint("look at the file: n8n would take it for another key than what is in it")
	}
	text := normalise(string(b))
	if text == "" {
		return keyText{}, problem.New(problem.Usage, "%s is empty", f).WithHint("n8n has its key from elsewhere: unset N8N_ENCRYPTION_KEY_FILE, or put the key there")
	}
	// normalise removes from both ends only, and first white space, so that the first
	// occurrence behind it is the one.
	outer := trim(string(b))
	from := bytes.Index(b, []byte(outer))
	if outer != text {
		from++ // the quote
	}
	return f.cut(b, from, from+len(text), text)
}

func (f KeyFile) cut(b []byte, from, to int, text string) (keyText, error) {
	key, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		return keyText{}, problem.New(problem.Usage, "%s has a key that is not text", f).
			WithHint("n8n makes keys of letters and digits; look at the file")
	}
	return keyText{b[:from], b[from:to], b[to:], key}, nil
}

// parseConfig finds the value of the member encryptionKey. JavaScript takes the last
// of several, other programs the first: a file that has two is refused.
func (f KeyFile) parseConfig(b []byte) (keyText, error) {
	notJSON := problem.New(problem.Usage, "%s is not JSON", f).WithHint("n8n cannot start with it either: correct it by hand")
	if !json.Valid(b) {
		return keyText{}, notJSON
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return keyText{}, problem.New(problem.Usage, "%s is no JSON object", f).WithHint("n8n cannot start with it either: correct it by hand")
	}
	found := 0
	var from, to int
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return keyText{}, notJSON
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return keyText{}, notJSON
		}
		if name != "encryptionKey" {
			continue
		}
		found++
		to = int(d.InputOffset())
		from = to - len(value)
	}
	switch {
	case found == 0:
		return keyText{}, problem.New(problem.Usage, "%s has no encryptionKey", f).WithHint("n8n has its key from elsewhere; there is nothing to change in this file")
	case found > 1:
		return keyText{}, problem.New(problem.Usage, "%s has encryptionKey %d times", f, found).
			WithHint("n8n takes the last one; remove the others by hand")
	case b[from] != '"':
		return keyText{}, problem.New(problem.Usage, "%s has an encryptionKey that is not a string", f).WithHint("put quotes around it")
	}
	var text string
	if err := json.Unmarshal(b[from:to], &text); err != nil {
		return keyText{}, notJSON
	}
	if text == "" {
		return keyText{}, problem.New(problem.Usage, "%s has an empty encryptionKey", f).WithHint("n8n has its key from elsewhere; there is nothing to change in this file")
	}
	return f.cut(b, from, to, text)
}

// edit is the content with another key in it, all other bytes as they are.
func (f KeyFile) edit(t keyText, key n8ncrypt.InstanceKey) ([]byte, error) {
	token := []byte(key.Reveal())
	if f.Form == ConfigForm {
		token = appendJSONString(nil, key.Reveal())
	}
	return f.editToken(t, key, token)
}

func (f KeyFile) editToken(t keyText, key n8ncrypt.InstanceKey, token []byte) ([]byte, error) {
	out := bytes.Join([][]byte{t.head, token, t.tail}, nil)
	back, err := f.parse(out)
	if err != nil || !back.key.Equal(key) || !bytes.Equal(back.head, t.head) || !bytes.Equal(back.tail, t.tail) {
		return nil, problem.New(problem.Usage, "%s cannot hold the key: n8n would read another one from it", f).
			WithHint("white space and quotes around a key are removed from such a file: use a key without")
	}
	return out, nil
}

// KeyState is what a file holds at the moment.
type KeyState string

// The states.
const (
	HoldsOld KeyState = "old"
	HoldsNew KeyState = "new"
	Torn     KeyState = "torn"    // a part of our own writing in place: see StagedFile
	Missing  KeyState = "missing" // there is no such file any more
)

// KeyChange is what a file is changed from and to.
type KeyChange struct {
	Old, New n8ncrypt.InstanceKey
	// Before is the content at the time of Stage, from the journal. It is needed to
	// finish or undo a write in place that was interrupted, to bring a removed file
	// back, and to undo byte for byte. Optional otherwise.
	Before secret.Bytes
}

// State says what the file holds. A third key is WrongKey; a file that cannot be
// understood, and is not a part of what we have written, is Damaged.
func (s StagedFile) State(c KeyChange) (KeyState, error) {
	state, _, _, err := s.state(c)
	return state, err
}

func (s StagedFile) file() KeyFile { return KeyFile{s.Form, s.Path} }

func (s StagedFile) state(c KeyChange) (KeyState, keyText, fs.FileInfo, error) {
	f := s.file()
	b, info, err := s.read()
	if errors.Is(err, fs.ErrNotExist) {
		return Missing, keyText{}, nil, nil
	}
	if err != nil {
		return "", keyText{}, nil, err
	}
	// Before what is in it: a mixture of the two contents may be JSON by chance.
	if s.torn(b, c) {
		return Torn, keyText{}, info, nil
	}
	t, err := f.parse(b)
	switch {
	case err == nil && t.key.Equal(c.New):
		return HoldsNew, t, info, nil
	case err == nil && t.key.Equal(c.Old):
		return HoldsOld, t, info, nil
	case err == nil:
		return "", keyText{}, nil, problem.New(problem.WrongKey, "%s holds another key than the old one and the new one of this rotation", f).
			WithHint("somebody has changed it since: put one of the two there, or move the file away, and go on with the rotation")
	}
	return "", keyText{}, nil, problem.Wrap(problem.Damaged, err, "somebody has changed %q since the rotation began", s.Path).
		WithHint("correct it by hand, and go on with the rotation")
}

// torn reports whether b is neither of the two contents and can be what an interrupted
// write in place has left: at each byte the old content, the new one, or a zero that
// a power failure left.
func (s StagedFile) torn(b []byte, c KeyChange) bool {
	before := c.Before.Reveal()
	after, err := s.after(c)
	if len(before) == 0 || err != nil || len(b) > max(len(before), len(after)) || bytes.Equal(b, before) || bytes.Equal(b, after) {
		return false
	}
	for i, x := range b {
		if x != 0 && !(i < len(before) && before[i] == x) && !(i < len(after) && after[i] == x) {
			return false
		}
	}
	return true
}

// after is what became of c.Before.
func (s StagedFile) after(c KeyChange) ([]byte, error) {
	f := s.file()
	t, err := f.parse(c.Before.Reveal())
	if err != nil {
		return nil, err
	}
	return f.edit(t, c.New)
}
