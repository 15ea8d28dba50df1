package n8nhome

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func instanceKey(t testing.TB, text string) n8ncrypt.InstanceKey {
	t.Helper()
	key, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const (
	wasKey = "old-key-0123456789-abcdef"
	isKey  = "new-key-0123456789-abcdefgh"
)

// quoteKey has everything that JSON.stringify escapes, and what it leaves alone.
const quoteKey = "n\"e\\w\b\f\n\r\t\x01\x1f\x7f/<>&\u2028é日😀"

func change(t testing.TB) KeyChange {
	return KeyChange{Old: instanceKey(t, wasKey), New: instanceKey(t, isKey)}
}

// edited is content with another key.
func edited(f KeyFile, content []byte, key n8ncrypt.InstanceKey) ([]byte, error) {
	t, err := f.parse(content)
	if err != nil {
		return nil, err
	}
	return f.edit(t, key)
}

func TestEditIsByteExact(t *testing.T) {
	for _, tt := range []struct {
		name string
		form KeyForm
		text string // %s is the key
		key  string // how the key is written there; "" is as it is
	}{
		{"as n8n writes it", ConfigForm, "{\n\t\"encryptionKey\": \"%s\"\n}", ""},
		{"with more", ConfigForm, "{\n\t\"encryptionKey\": \"%s\",\n\t\"tunnelSubdomain\": \"abc\",\n\t\"fsStorageMigrated\": true\n}", ""},
		{"order, spaces, end of line", ConfigForm, "\r\n {  \"b\" :1.50e+1,\"encryptionKey\"\n:\t\"%s\" ,\"a\":[{\"encryptionKey\":\"x\"}, null ]}  \r\n\n", ""},
		{"one line", ConfigForm, `{"encryptionKey":"%s"}`, ""},
		{"name in escapes", ConfigForm, `{"\u0065ncryptionKe\u0079":"%s"}`, ""},
		{"key in escapes", ConfigForm, `{"encryptionKey":"%s"}`, `old\u002dkey\u002D0123456789-abcdef`},
		{"names that are alike", ConfigForm, `{"encryptionkey":"a","EncryptionKey":"b","encryptionKey ":"c","encryptionKey":"%s","x":{"encryptionKey":1}}`, ""},
		{"other text is kept", ConfigForm, "{\"a\":\"\\/\\u00e9\xff\xed\xa0\x80\",\"encryptionKey\":\"%s\",\"b\":1e400}", ""},
		{"big", ConfigForm, `{"a":"` + strings.Repeat("x", 500<<10) + `","encryptionKey":"%s"}`, ""},
		{"plain", PlainForm, "%s", ""},
		{"plain, end of line", PlainForm, "%s\n", ""},
		{"plain, white space", PlainForm, "\ufeff \t%s \u2029\r\n\n", ""},
		{"plain, quotes", PlainForm, "\n\"%s\"\n", ""},
		{"plain, single quotes", PlainForm, "'%s'", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := tt.key
			if old == "" {
				old = wasKey
			}
			f := KeyFile{Form: tt.form, Name: "f"}
			before := []byte(strings.ReplaceAll(tt.text, "%s", old))
			news := []string{isKey, "s", strings.Repeat("long", 1000)}
			if tt.form == ConfigForm {
				news = append(news, quoteKey, " spaces ", `"quoted"`)
			}
			for _, text := range news {
				got, err := edited(f, before, instanceKey(t, text))
				if err != nil {
					t.Fatal(err)
				}
				written := text
				if tt.form == ConfigForm {
					// What n8n's JSON.stringify makes of it.
					written = strings.TrimSuffix(strings.TrimPrefix(string(FormatConfig(instanceKey(t, text))), "{\n\t\"encryptionKey\": \""), "\"\n}")
				}
				if want := strings.ReplaceAll(tt.text, "%s", written); string(got) != want {
					t.Errorf("%.200q\nwant\n%.200q", got, want)
				}
				a, err := f.parse(before)
				if err != nil {
					t.Fatal(err)
				}
				b, err := f.parse(got)
				if err != nil {
					t.Fatal(err)
				}
				if a.frame() != b.frame() || len(a.frame()) != 64 {
					t.Error("the frame is another one")
				}
				if !a.key.Equal(instanceKey(t, wasKey)) || !b.key.Equal(instanceKey(t, text)) {
					t.Error("another key was read")
				}
			}
		})
	}
}

func TestEditRefuses(t *testing.T) {
	for _, tt := range []struct {
		form       KeyForm
		text, want string
	}{
		{ConfigForm, ``, "is not JSON"},
		{ConfigForm, `{"encryptionKey":"a"`, "is not JSON"},
		{ConfigForm, `{"encryptionKey":"a"} x`, "is not JSON"},
		{ConfigForm, "\ufeff{\"encryptionKey\":\"a\"}", "is not JSON"},
		{ConfigForm, `{"encryptionKey":"a",}`, "is not JSON"},
		{ConfigForm, `[{"encryptionKey":"a"}]`, "is no JSON object"},
		{ConfigForm, `"encryptionKey"`, "is no JSON object"},
		{ConfigForm, `{}`, "has no encryptionKey"},
		{ConfigForm, `{"encryptionkey":"a"}`, "has no encryptionKey"},
		{ConfigForm, `{"x":{"encryptionKey":"a"}}`, "has no encryptionKey"},
		{ConfigForm, `{"encryptionKey":"a","encryptionKey":"a"}`, "has encryptionKey 2 times"},
		{ConfigForm, `{"encryptionKey":"a","b":1,"encryption\u004bey":1,"encryptionKey":""}`, "has encryptionKey 3 times"},
		{ConfigForm, `{"encryptionKey":7}`, "has an encryptionKey that is not a string"},
		{ConfigForm, `{"encryptionKey":null}`, "has an encryptionKey that is not a string"},
		{ConfigForm, `{"encryptionKey":""}`, "has an empty encryptionKey"},
		{ConfigForm, `{"encryptionKey":"a\u0000b"}`, "has a key that is not text"},
		{PlainForm, ``, "is empty"},
		{PlainForm, " \n", "is empty"},
		{PlainForm, `""`, "is empty"},
		{PlainForm, "a\xff", "holds bytes that are not text"},
		{PlainForm, "a\x00b", "has a key that is not text"},
		{PlainForm, `{"encryptionKey":"a"}`, "is n8n's settings file, not a key"},
	} {
		f := KeyFile{Form: tt.form, Name: "f"}
		got, err := edited(f, []byte(tt.text), instanceKey(t, isKey))
		if err == nil || !strings.Contains(err.Error(), tt.want) || problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" || got != nil {
			t.Errorf("%q: %q, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{" a", "a\n", `"a"`, `'a'`, "\ufeffa", `{"encryptionKey": 1`} {
		got, err := edited(PlainKeyFile("f"), []byte(wasKey+"\n"), instanceKey(t, text))
		if err == nil || !strings.Contains(err.Error(), `key file "f" cannot hold the key: n8n would read another one from it`) || got != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func FuzzEditConfig(f *testing.F) {
	f.Add([]byte(`{"encryptionKey":"old"}`), isKey)
	f.Add([]byte("{\n\t\"encryptionKey\": \"o\\u006cd\",\n\t\"tunnelSubdomain\": \"a\"\n}"), quoteKey)
	f.Add([]byte(`{"encryptionKey":"a","encryptionKey":"b"}`), "x")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		key, err := n8ncrypt.NewInstanceKey(text)
		if err != nil {
			return
		}
		for _, file := range []KeyFile{ConfigKeyFile("d"), PlainKeyFile("f")} {
			was, err := file.parse(b)
			if err != nil {
				continue
			}
			after, err := file.edit(was, key)
			if err != nil {
				continue
			}
			is, err := file.parse(after)
			if err != nil || !is.key.Equal(key) {
				t.Fatalf("%q: %q reads as another key (%v)", file.Form, after, err)
			}
			back, err := file.editToken(is, was.key, was.token)
			if err != nil || !bytes.Equal(back, b) {
				t.Fatalf("%q: back is %q, not %q (%v)", file.Form, back, b, err)
			}
			if file.Form == ConfigForm {
				var all map[string]json.RawMessage
				if err := json.Unmarshal(after, &all); err != nil || string(all["encryptionKey"]) == "" {
					t.Fatalf("%q: %v", after, err)
				}
			}
		}
	})
}

// folder is n8n's with a config.
func folder(t testing.TB, content string) (dir string, f KeyFile) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), ".n8n")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f = ConfigKeyFile(dir)
	if err := os.WriteFile(f.Name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, f
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

const (
	oldConfig = "{\n\t\"encryptionKey\": \"old\\u002dkey-0123456789-abcdef\",\n\t\"tunnelSubdomain\": \"a\"\n}"
	newConfig = "{\n\t\"encryptionKey\": \"" + isKey + "\",\n\t\"tunnelSubdomain\": \"a\"\n}"
)

func TestStageApplyUndo(t *testing.T) {
	dir, f := folder(t, oldConfig)
	if err := os.Chmod(f.Name, 0o640); err != nil {
		t.Fatal(err)
	}
	c := change(t)
	var s StagedFile
	for range 2 { // again, as after a kill
		var err error
		if s, err = f.Stage(c); err != nil {
			t.Fatal(err)
		}
	}
	if got := content(t, f.Name); got != oldConfig {
		t.Errorf("staging has changed the file: %q", got)
	}
	if got := content(t, s.Staged); got != newConfig {
		t.Errorf("staged: %q", got)
	}
	if got, want := names(t, dir), []string{".n8keep-tmp-rotated-config", "config"}; !cmp.Equal(got, want) {
		t.Error(got)
	}
	for file, err := range Files(dir, FilesConfig{}) {
		t.Errorf("%v %v would be in a backup", file, err)
	}
	if string(s.Before().Reveal()) != oldConfig || s.InPlace != "" || s.Mode != 0o640 || s.UID != os.Getuid() {
		t.Errorf("%+v", s)
	}
	// The journal has all that the next process needs, and nothing secret.
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	s = StagedFile{}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{wasKey, isKey, "u002d", "tunnel"} {
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("%q is in the journal: %s", secret, b)
		}
	}
	c.Before = secret.NewBytes([]byte(oldConfig))
	is := func(want KeyState) {
		t.Helper()
		if got, err := s.State(c); got != want || err != nil {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
	}
	is(HoldsOld)
	for range 2 {
		for range 2 {
			if err := s.Apply(c); err != nil {
				t.Fatal(err)
			}
			if got := content(t, f.Name); got != newConfig {
				t.Fatalf("%q", got)
			}
		}
		is(HoldsNew)
		for range 2 {
			exact, err := s.Undo(c)
			if err != nil || !exact {
				t.Fatal(exact, err)
			}
			if got := content(t, f.Name); got != oldConfig {
				t.Fatalf("%q", got)
			}
		}
		is(HoldsOld)
	}
	info, err := os.Stat(f.Name)
	if err != nil || info.Mode() != 0o640 {
		t.Error(info.Mode(), err)
	}
	if got := names(t, dir); !cmp.Equal(got, []string{"config"}) {
		t.Error(got)
	}
	// Given up before Apply.
	if s, err = f.Stage(c); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Discard(); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); !cmp.Equal(got, []string{"config"}) {
		t.Error(got)
	}
}

// n8n adds members to its config when it starts, and takes other modes away.
func TestWhatN8NWritesStays(t *testing.T) {
	_, f := folder(t, oldConfig)
	c := change(t)
	s, err := f.Stage(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Before = s.Before()
	more := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(f.Name, []byte(text), 0o600), os.Chmod(f.Name, 0o400)); err != nil {
			t.Fatal(err)
		}
	}
	// Between Stage and Apply.
	more(strings.Replace(oldConfig, "\n}", ",\n\t\"x\": 1\n}", 1))
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, f.Name), strings.Replace(newConfig, "\n}", ",\n\t\"x\": 1\n}", 1); got != want {
		t.Errorf("%q", got)
	}
	if info, err := os.Stat(f.Name); err != nil || info.Mode() != 0o400 {
		t.Error(info.Mode(), err)
	}
	// Between Apply and Undo. The key is written as it was.
	if err := os.Chmod(f.Name, 0o600); err != nil {
		t.Fatal(err)
	}
	more(strings.Replace(newConfig, "\n}", ",\n\t\"fsStorageMigrated\": true\n}", 1))
	for i := range 2 {
		exact, err := s.Undo(c)
		if err != nil || exact {
			t.Error(i, exact, err)
		}
		if got, want := content(t, f.Name), strings.Replace(oldConfig, "\n}", ",\n\t\"fsStorageMigrated\": true\n}", 1); got != want {
			t.Errorf("%q", got)
		}
	}
}

// A rotation that lost its journal entry of the content before can be undone all the
// same.
func TestUndoWithoutBefore(t *testing.T) {
	_, f := folder(t, oldConfig)
	c := change(t)
	s, err := f.Stage(c)
	if err == nil {
		err = s.Apply(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	exact, err := s.Undo(c)
	if err != nil || exact {
		t.Fatal(exact, err)
	}
	if got, want := content(t, f.Name), strings.Replace(oldConfig, `\u002d`, "-", 1); got != want {
		t.Errorf("%q", got)
	}
}

func TestLinkIsFollowed(t *testing.T) {
	dir, f := folder(t, oldConfig)
	real := filepath.Join(t.TempDir(), "real")
	if err := errors.Join(os.Rename(f.Name, real), os.Symlink(real, f.Name)); err != nil {
		t.Fatal(err)
	}
	c := change(t)
	s, err := f.Stage(c)
	if err == nil {
		err = s.Apply(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink(f.Name); err != nil || link != real {
		t.Error(link, err)
	}
	if got := content(t, real); got != newConfig {
		t.Errorf("%q", got)
	}
	if got := names(t, dir); !cmp.Equal(got, []string{"config"}) || f.Path() != s.Path {
		t.Error(got, f.Path(), s.Path)
	}
}

// Whoever owns the folder must not lead a write elsewhere by a link under the staged
// name.
func TestStagedNameIsNotFollowed(t *testing.T) {
	_, f := folder(t, oldConfig)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("untouched"), 0o600), os.Symlink(victim, stagedName(f.Name))); err != nil {
		t.Fatal(err)
	}
	c := change(t)
	s, err := f.Stage(c)
	if err != nil {
		t.Fatal(err)
	}
	// And once more, with the right content behind it.
	if err := errors.Join(os.Remove(s.Staged), os.WriteFile(victim, []byte(newConfig), 0o600), os.Symlink(victim, s.Staged), s.Apply(c)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(f.Name); err != nil || !info.Mode().IsRegular() {
		t.Error(info.Mode(), err)
	}
	if got := content(t, f.Name); got != newConfig {
		t.Errorf("%q", got)
	}
}

func TestStageRefuses(t *testing.T) {
	c := change(t)
	third := strings.Replace(newConfig, isKey, "third-key-0123456789", 1)
	for _, tt := range []struct {
		name, text, want string
		kind             problem.Kind
	}{
		{"third key", third, "holds another key than the one to be replaced", problem.WrongKey},
		{"two keys", `{"encryptionKey":"a","encryptionKey":"b"}`, "has encryptionKey 2 times", problem.Usage},
	} {
		_, f := folder(t, tt.text)
		_, err := f.Stage(c)
		if err == nil || problem.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	_, f := folder(t, "")
	if err := os.Remove(f.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stage(c); problem.KindOf(err) != problem.NotFound || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "does not exist") {
		t.Error(err)
	}
	if err := syscall.Mkfifo(f.Name, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stage(c); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "it is neither a file nor a folder") {
		t.Error(err)
	}
}

func TestChangedByOthers(t *testing.T) {
	c := change(t)
	for _, tt := range []struct {
		name, text, want string
		kind             problem.Kind
	}{
		{"third key", strings.Replace(newConfig, isKey, "third-key-0123456789", 1), "holds another key than the old one and the new one of this rotation", problem.WrongKey},
		{"nonsense", "nonsense", "somebody has changed", problem.Damaged},
		{"cut", oldConfig[:len(oldConfig)-1], "somebody has changed", problem.Damaged}, // without Before it cannot be told
		{"removed", "", "has been removed since the rotation began", problem.NotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, f := folder(t, oldConfig)
			s, err := f.Stage(c)
			if err != nil {
				t.Fatal(err)
			}
			if tt.text == "" {
				err = os.Remove(f.Name)
			} else {
				err = os.WriteFile(f.Name, []byte(tt.text), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{s.Apply(c), func() error { _, err := s.Undo(c); return err }()} {
				if problem.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.want) || problem.HintOf(err) == "" {
					t.Errorf("%v", err)
				}
			}
			if tt.text != "" && content(t, f.Name) != tt.text {
				t.Error("it was written to")
			}
		})
	}
	t.Run("removed, and what was in it is known", func(t *testing.T) {
		_, f := folder(t, oldConfig)
		s, err := f.Stage(c)
		if err != nil {
			t.Fatal(err)
		}
		c := c
		c.Before = s.Before()
		if err := errors.Join(os.Remove(f.Name), s.Apply(c)); err != nil || content(t, f.Name) != newConfig {
			t.Fatal(err)
		}
		err = os.Remove(f.Name)
		exact, undo := s.Undo(c)
		if err := errors.Join(err, undo); err != nil || !exact || content(t, f.Name) != oldConfig {
			t.Fatal(exact, err)
		}
	})
}

// A write in place that stopped anywhere, with pages of zeros after a power failure,
// is recognised, and finished or undone.
func TestTornInPlace(t *testing.T) {
	for _, newKey := range []string{"short", strings.Repeat("longer-", 9)} {
		c := KeyChange{Old: instanceKey(t, wasKey), New: instanceKey(t, newKey), Before: secret.NewBytes([]byte(oldConfig))}
		_, f := folder(t, oldConfig)
		after, err := edited(f, []byte(oldConfig), c.New)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.Stage(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Discard(); err != nil {
			t.Fatal(err)
		}
		s.Staged, s.InPlace = "", "it is a mount point"
		torn := [][]byte{after}
		for n := 0; n <= len(after); n += 1 + n%11 {
			mixed := slices.Concat(after[:n], []byte(oldConfig)[min(n, len(oldConfig)):])
			zeros := slices.Concat(after[:n], make([]byte, max(len(oldConfig), n)-n))
			torn = append(torn, mixed, zeros, after[:n])
		}
		seen := map[KeyState]int{}
		for _, b := range torn {
			for _, undo := range []bool{false, true} {
				if err := os.WriteFile(f.Name, b, 0o600); err != nil {
					t.Fatal(err)
				}
				state, err := s.State(c)
				if err != nil {
					t.Fatalf("%q: %v", b, err)
				}
				seen[state]++
				want := string(after)
				if undo {
					want = oldConfig
					_, err = s.Undo(c)
				} else {
					err = s.Apply(c)
				}
				if err != nil {
					t.Fatalf("%q (%s): %v", b, state, err)
				}
				if got := content(t, f.Name); got != want {
					t.Fatalf("%q (%s) became %q, want %q", b, state, got, want)
				}
			}
		}
		if seen[Torn] < 30 || seen[HoldsOld] == 0 || seen[HoldsNew] == 0 {
			t.Errorf("%v", seen)
		}
	}
	// Something else is not taken for ours.
	_, f := folder(t, oldConfig[:30]+"?"+oldConfig[31:50])
	s := StagedFile{Form: ConfigForm, Path: f.Name, InPlace: "x"}
	c := change(t)
	c.Before = secret.NewBytes([]byte(oldConfig))
	if _, err := s.State(c); problem.KindOf(err) != problem.Damaged {
		t.Error(err)
	}
}

func TestInPlaceKeepsTheFile(t *testing.T) {
	dir, f := folder(t, oldConfig)
	link := filepath.Join(dir, "link")
	if err := os.Link(f.Name, link); err != nil { // shows that it is the same file
		t.Fatal(err)
	}
	c := change(t)
	s, err := f.Stage(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	c.Before = s.Before()
	s.Staged, s.InPlace = "", "it is a mount point"
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	if got := content(t, link); got != newConfig {
		t.Errorf("%q", got)
	}
	if exact, err := s.Undo(c); err != nil || !exact || content(t, link) != oldConfig {
		t.Error(exact, err)
	}
}

func TestAttributesAreKept(t *testing.T) {
	_, f := folder(t, oldConfig)
	if err := setAttribute(f.Name, "user.n8keep-test", "value"); err != nil {
		if errors.Is(err, syscall.ENOTSUP) {
			t.Log("this file system has no extended attributes")
			return
		}
		t.Fatal(err)
	}
	c := change(t)
	s, err := f.Stage(c)
	if err == nil {
		err = s.Apply(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := attributeOf(f.Name, "user.n8keep-test"); err != nil || string(got) != "value" || content(t, f.Name) != newConfig {
		t.Errorf("%q, %v", got, err)
	}
}

func TestKeyOfKeyFile(t *testing.T) {
	dir, f := folder(t, oldConfig)
	key, err := f.Key()
	if err != nil || !key.Equal(instanceKey(t, wasKey)) {
		t.Error(err)
	}
	if err := f.Changeable(); err != nil || inPlace(f.Path()) != "" {
		t.Error(err)
	}
	if _, err := PlainKeyFile(filepath.Join(dir, "none")).Key(); problem.KindOf(err) != problem.NotFound {
		t.Error(err)
	}
	if _, err := PlainKeyFile(dir).Key(); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "it is a folder") {
		t.Error(err)
	}
}

// TestReplacedFile: whoever owns n8n's folder can put anything where the file was, and
// n8keep may do more than they.
func TestReplacedFile(t *testing.T) {
	const noticed = "look who writes to its folder; put the file back with what was in it, and try again"
	for name, replace := range map[string]struct {
		by   func(path, victim string) error
		want string
		hint string // of what reads it first
	}{
		"link": {func(path, victim string) error { return os.Symlink(victim, path) }, "it is a symbolic link",
			"somebody has put a link there; put the file back, and look who writes to its folder"},
		"file":      {func(path, victim string) error { return os.WriteFile(path, []byte(oldConfig), 0o640) }, "it was replaced by another file in this moment", ""},
		"hard link": {func(path, victim string) error { return os.Link(victim, path) }, "it was replaced by another file in this moment", ""},
		"pipe": {func(path, victim string) error { return syscall.Mkfifo(path, 0o600) }, "it is neither a file nor a folder",
			"give a regular file; named pipes and devices are not read"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f, victim := ConfigKeyFile(filepath.Join(dir, "n8n")), filepath.Join(dir, "victim")
			for _, err := range []error{os.Mkdir(filepath.Dir(f.Name), 0o700), os.WriteFile(f.Name, []byte(oldConfig), 0o640), os.WriteFile(victim, []byte(oldConfig), 0o600)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			c := change(t)
			s, err := f.Stage(c)
			if err != nil {
				t.Fatal(err)
			}
			c.Before = s.Before()
			// Beside it, so that its inode is not given to another file.
			if err := os.Rename(f.Name, filepath.Join(dir, "was")); err != nil {
				t.Fatal(err)
			}
			if err := replace.by(f.Name, victim); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{"beside": s.stage([]byte(newConfig)), "in place": s.writeInPlace([]byte(newConfig))} {
				want := fmt.Sprintf("n8n's settings file %q was not changed: %s", s.Path, replace.want)
				if err == nil || err.Error() != want || problem.HintOf(err) != noticed {
					t.Errorf("%s: %v | %s", what, err, problem.HintOf(err))
				}
			}
			if replace.hint != "" {
				s.InPlace = "it is a mount point"
				err := s.Apply(c)
				if err == nil || !strings.HasSuffix(err.Error(), "cannot be read: "+replace.want) || problem.HintOf(err) != replace.hint {
					t.Errorf("%v | %s", err, problem.HintOf(err))
				}
				if _, err := s.Undo(c); err == nil {
					t.Error("undone")
				}
			}
			if content(t, victim) != oldConfig {
				t.Error("another file was written")
			}
			if got := strings.Join(names(t, filepath.Dir(f.Name)), " "); got != "config" {
				t.Error(got)
			}
		})
	}
}
