package n8nhome

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	keyA = "key-A-0123456789abcdef"
	keyB = "key-B-0123456789abcdef"
	keyC = "key-C-0123456789abcdef"
	keyD = "key-D-0123456789abcdef"
)

// The versions at which the rules change, and the newest for everything unknown.
const (
	v113  = "1.13.1"
	v114  = "1.14.0"
	v124  = "1.24.3"
	v125  = "1.25.0"
	v115x = "1.115.3"
	v116  = "1.116.2"
	v241  = "2.41.1"
)

func TestResolveKeyByVersion(t *testing.T) {
	all := []string{"0.236.0", v113, v114, v124, v125, v115x, v116, v241, "2.38.x", "3.0.0", "", "what?"}
	old := []string{"0.236.0", v113, v114, v124, v125, v115x}
	recent := []string{v116, v241, "2.38.x", "3.0.0", "", "what?"}
	for _, tt := range []struct {
		name                       string
		versions                   []string
		keyFile, env, file, config string // "" is absent, "-" is present and empty
		want                       string
		winner                     string
		others                     string // name=same
		warning                    string // one that has to be there; "none" for no warning at all
	}{
		{name: "config alone", versions: all, config: keyA, want: keyA, winner: FromConfig, warning: "none"},
		{name: "variable alone", versions: all, env: keyB, want: keyB, winner: FromEnv, warning: "none"},
		{name: "both the same", versions: []string{v125, v115x, v116, v241, ""}, config: keyA, env: keyA, want: keyA, winner: FromEnv, others: "config=true", warning: "none"},
		{name: "both the same", versions: []string{v114, v124}, config: keyA, env: keyA, want: keyA, winner: FromConfig, others: "N8N_ENCRYPTION_KEY=true", warning: "none"},
		{name: "differ", versions: []string{"0.236.0", v113}, config: keyA, env: keyB, want: keyB, winner: FromEnv, others: "config=false",
			warning: `N8N_ENCRYPTION_KEY and settings file "DIR/config" hold different keys: n8n VERSION uses N8N_ENCRYPTION_KEY and says nothing about it`},
		{name: "differ", versions: []string{v114, "1.20", v124}, config: keyA, env: keyB, want: keyA, winner: FromConfig, others: "N8N_ENCRYPTION_KEY=false",
			warning: `N8N_ENCRYPTION_KEY and settings file "DIR/config" hold different keys: n8n VERSION uses settings file "DIR/config" and says nothing about it`},
		{name: "differ", versions: []string{v125, v115x, v116, v241, "2.38.x", "3.0.0"}, config: keyA, env: keyB, want: keyB, winner: FromEnv, others: "config=false",
			warning: `N8N_ENCRYPTION_KEY and settings file "DIR/config" hold different keys: n8n VERSION refuses to start (Mismatching encryption keys); the key of N8N_ENCRYPTION_KEY is used here, give the right one with --key-file FILE`},
		{name: "differ, version unknown", versions: []string{"", "what?"}, config: keyA, env: keyB, want: keyB, winner: FromEnv, others: "config=false",
			warning: `N8N_ENCRYPTION_KEY and settings file "DIR/config" hold different keys: n8n refuses to start (Mismatching encryption keys); the key of N8N_ENCRYPTION_KEY is used here, give the right one with --key-file FILE`},
		{name: "key file beats all", versions: all, keyFile: keyD, config: keyA, env: keyA, want: keyD, winner: FromKeyFile, others: "N8N_ENCRYPTION_KEY=false config=false",
			warning: `settings file "DIR/config" holds another key than --key-file "KEYFILE", which is used`},
		{name: "key file agrees", versions: all, keyFile: keyA, config: keyA, want: keyA, winner: FromKeyFile, others: "config=true", warning: "none"},
		{name: "key file, n8n mismatched", versions: []string{v125, v241}, keyFile: keyA, config: keyA, env: keyB, want: keyA, winner: FromKeyFile,
			others: "N8N_ENCRYPTION_KEY=false config=true", warning: `N8N_ENCRYPTION_KEY and settings file "DIR/config" hold different keys: n8n VERSION refuses to start`},
		{name: "_FILE ignored", versions: old, file: keyC, config: keyA, want: keyA, winner: FromConfig, others: "N8N_ENCRYPTION_KEY_FILE=false",
			warning: "N8N_ENCRYPTION_KEY_FILE is set, and n8n VERSION ignores it"},
		{name: "_FILE honoured", versions: recent, file: keyC, want: keyC, winner: FromEnvFile, warning: "none"},
		{name: "_FILE and config differ", versions: []string{v116, v241}, file: keyC, config: keyA, want: keyC, winner: FromEnvFile, others: "config=false",
			warning: `N8N_ENCRYPTION_KEY_FILE "FILE" and settings file "DIR/config" hold different keys: n8n VERSION refuses to start`},
		{name: "variable beats _FILE", versions: recent, env: keyB, file: keyC, want: keyB, winner: FromEnv, others: "N8N_ENCRYPTION_KEY_FILE=false",
			warning: "N8N_ENCRYPTION_KEY_FILE is set, and n8n ignores it because N8N_ENCRYPTION_KEY exists"},
		{name: "empty variable hides _FILE", versions: recent, env: "-", file: keyC, config: keyA, want: keyA, winner: FromConfig, others: "N8N_ENCRYPTION_KEY_FILE=false",
			warning: "N8N_ENCRYPTION_KEY_FILE is set, and n8n ignores it because N8N_ENCRYPTION_KEY exists"},
		{name: "empty variable", versions: all, env: "-", config: keyA, want: keyA, winner: FromConfig, warning: "none"},
		{name: "variable is trimmed", versions: recent, env: " \t" + keyB + "\n", want: keyB, winner: FromEnv, warning: "N8N_ENCRYPTION_KEY has white space or quotes around it, which n8n"},
		{name: "variable is not trimmed", versions: old, env: " " + keyB, want: " " + keyB, winner: FromEnv,
			warning: "the key of N8N_ENCRYPTION_KEY begins or ends with white space, which counts as part of the key"},
		{name: "variable is unquoted once", versions: recent, env: `"'` + keyB + `'"`, want: `'` + keyB + `'`, winner: FromEnv, warning: "has white space or quotes"},
		{name: "variable stays quoted", versions: old, env: `"` + keyB + `"`, want: `"` + keyB + `"`, winner: FromEnv,
			warning: "the key of N8N_ENCRYPTION_KEY stands in quotes, which count as part of the key"},
		{name: "_FILE is trimmed and unquoted", versions: recent, file: "\n '" + keyC + "' \n", want: keyC, winner: FromEnvFile, warning: "none"},
		{name: "config is as it is", versions: all, config: ` "` + keyA + ` `, want: ` "` + keyA + ` `, winner: FromConfig,
			warning: `the key of settings file "DIR/config" begins or ends with white space, which counts as part of the key`},
		{name: "key file loses one newline", versions: []string{v241}, keyFile: keyD + "\n", want: keyD, winner: FromKeyFile, warning: "none"},
		{name: "key file loses only one", versions: []string{v241}, keyFile: keyD + "\n\n", want: keyD + "\n", winner: FromKeyFile,
			warning: `the key of --key-file "KEYFILE" begins or ends with white space, which counts as part of the key`},
		{name: "key file keeps CR", versions: []string{v241}, keyFile: keyD + "\r\n", want: keyD + "\r", winner: FromKeyFile, warning: "white space"},
		{name: "key file keeps quotes", versions: []string{v241}, keyFile: `"` + keyD + `"` + "\n", want: `"` + keyD + `"`, winner: FromKeyFile, warning: "stands in quotes"},
		{name: "weak", versions: []string{v241}, config: "short", want: "short", winner: FromConfig,
			warning: "the instance key has only 5 characters and could be guessed; n8n makes keys of 32"},
	} {
		for _, version := range tt.versions {
			dir := t.TempDir()
			write := func(name, content string) string {
				if content == "" {
					return ""
				}
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			if tt.config != "" {
				write("config", string(FormatConfig(mustKey(t, tt.config))))
			}
			env := map[string]string{}
			if tt.env != "" {
				env[FromEnv] = strings.TrimPrefix(tt.env, "-")
			}
			keyFile, file := write("keyfile", tt.keyFile), write("file", tt.file)
			if file != "" {
				env[FromEnvFile] = file
			}
			name := fmt.Sprintf("%s, version %q", tt.name, version)
			got, err := ResolveKey(KeySources{KeyFile: keyFile, Dir: dir, N8NVersion: version, Env: func(n string) (string, bool) { v, ok := env[n]; return v, ok }})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got.Key.Reveal() != tt.want || got.Winner.Name != tt.winner {
				t.Errorf("%s: %q from %v, want %q from %s", name, got.Key.Reveal(), got.Winner, tt.want, tt.winner)
			}
			var others []string
			for _, o := range got.Others {
				others = append(others, fmt.Sprintf("%s=%v", o.Source.Name, o.Same))
			}
			if s := strings.Join(others, " "); s != tt.others {
				t.Errorf("%s: others %q, want %q", name, s, tt.others)
			}
			warnings := strings.Join(got.Warnings, "\n")
			want := strings.NewReplacer("DIR", dir, "VERSION", version, "KEYFILE", keyFile).Replace(tt.warning)
			want = strings.Replace(want, `"FILE"`, fmt.Sprintf("%q", file), 1)
			if tt.warning == "none" && warnings != "" || tt.warning != "none" && !strings.Contains(warnings, want) {
				t.Errorf("%s: warnings\n%s\nwant\n%s", name, warnings, want)
			}
			for _, k := range []string{keyA, keyB, keyC, keyD} {
				if strings.Contains(warnings, k) {
					t.Errorf("%s: a warning shows the key", name)
				}
			}
		}
	}
}

func mustKey(t *testing.T, s string) n8ncrypt.InstanceKey {
	t.Helper()
	key, err := n8ncrypt.NewInstanceKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestResolveKeyOfFixtures(t *testing.T) {
	dirs, err := filepath.Glob("../../testdata/fixtures/*")
	if err != nil || len(dirs) < 9 {
		t.Fatalf("%d fixtures, %v", len(dirs), err)
	}
	for _, dir := range dirs {
		version, _, _ := strings.Cut(filepath.Base(dir), "-")
		got, err := ResolveKey(KeySources{Dir: dir, N8NVersion: version})
		if err != nil || !strings.HasPrefix(got.Key.Reveal(), "lab-key-"+version) || got.Winner != (Source{FromConfig, filepath.Join(dir, "config")}) {
			t.Errorf("%s: %v %v", dir, got.Winner, err)
		}
	}
}

func TestResolveKeyErrors(t *testing.T) {
	const anyHint = "give the key in a file with --key-file FILE, or in the variable N8N_ENCRYPTION_KEY\n" +
		"n8n has it in the file config in its folder, or in its environment: docker exec CONTAINER printenv N8N_ENCRYPTION_KEY"
	for _, tt := range []struct {
		name       string
		files      map[string]string
		env        map[string]string
		keyFile    string
		version    string
		noDir      bool
		kind       problem.Kind
		text, hint string
	}{
		{name: "nothing", kind: problem.NotFound, text: `no instance key found: N8N_ENCRYPTION_KEY is not set and "DIR" has no config file`, hint: anyHint},
		{name: "nothing, no folder", noDir: true, kind: problem.NotFound, text: `no instance key found`, hint: anyHint},
		{name: "only an ignored file", version: v115x, files: map[string]string{"f": keyC}, env: map[string]string{FromEnvFile: "DIR/f"}, kind: problem.NotFound,
			text: `no instance key found: N8N_ENCRYPTION_KEY is not set and "DIR" has no config file`,
			hint: `N8N_ENCRYPTION_KEY_FILE is set, but n8n 1.115.3 ignores it; if that file has the key all the same, give it with --key-file "DIR/f"` + "\n" + anyHint},
		{name: "only a hidden file", files: map[string]string{"f": keyC}, env: map[string]string{FromEnvFile: "DIR/f", FromEnv: ""}, kind: problem.NotFound,
			text: `no instance key found: N8N_ENCRYPTION_KEY is not set and "DIR" has no config file`,
			hint: "N8N_ENCRYPTION_KEY exists and is empty, so n8n ignores N8N_ENCRYPTION_KEY_FILE; unset it\n" + anyHint},
		{name: "missing key file", keyFile: "DIR/none", kind: problem.NotFound, text: `the key file of --key-file "DIR/none" does not exist`, hint: "give a file that holds n8n's instance key and nothing else, with --key-file FILE"},
		{name: "key file is a folder", keyFile: "DIR", kind: problem.Usage, text: `the key file of --key-file "DIR" cannot be read: it is a folder`, hint: "name the file itself, not the folder"},
		{name: "empty key file", files: map[string]string{"k": "\n"}, keyFile: "DIR/k", kind: problem.Usage, text: `the key file of --key-file "DIR/k" is empty`, hint: "give a file that holds n8n's instance key and nothing else, with --key-file FILE"},
		{name: "binary key file", files: map[string]string{"k": "\xff\xfe\x00"}, keyFile: "DIR/k", kind: problem.Usage, text: `--key-file "DIR/k" holds bytes that are not text`, hint: "a key is UTF-8 text, such as the encryptionKey in n8n's config; other bytes are not what n8n would use\ngive a file that holds n8n's instance key and nothing else, with --key-file FILE"},
		{name: "key file with NUL", files: map[string]string{"k": keyA + "\x00"}, keyFile: "DIR/k", kind: problem.Usage, text: `--key-file "DIR/k" holds a NUL byte, which is no part of a key`,
			hint: `keys read from /proc/PID/environ with grep -z end in one: remove it with tr -d '\000'`},
		{name: "key file is a pipe", files: map[string]string{"|pipe": ""}, keyFile: "DIR/pipe", kind: problem.Usage,
			text: `the key file of --key-file "DIR/pipe" cannot be read: it is neither a file nor a folder`,
			hint: "give a regular file, /dev/stdin, or what the shell makes of <(command); named pipes and devices are not read"},
		{name: "key file is a device", keyFile: "/dev/zero", kind: problem.Usage, text: `the key file of --key-file "/dev/zero" cannot be read: it is neither a file nor a folder`,
			hint: "give a regular file, /dev/stdin, or what the shell makes of <(command); named pipes and devices are not read"},
		{name: "key file is below a file", files: map[string]string{"k": keyA}, keyFile: "DIR/k/x", kind: problem.Usage, text: `the key file of --key-file "DIR/k/x" cannot be read: not a directory`,
			hint: "check the path and the disk it is on"},
		{name: "config is a pipe", files: map[string]string{"|config": ""}, kind: problem.Usage, text: `n8n's settings file "DIR/config" cannot be read: it is neither a file nor a folder`,
			hint: "give a regular file; named pipes and devices are not read\nif you know the key, give it with --key-file FILE"},
		{name: "config is a link to nowhere", files: map[string]string{">config": "gone"}, kind: problem.Usage,
			text: `n8n's settings file "DIR/config" is a symbolic link to "gone", which does not exist`,
			hint: "put the file there, or remove the link; if you know the key, give it with --key-file FILE"},
		{name: "config with NUL", files: map[string]string{"config": `{"encryptionKey":"a\u0000"}`}, kind: problem.Usage, text: `n8n's settings file "DIR/config" has an encryptionKey that is not text`,
			hint: "n8n makes keys of letters and digits; if you know the key, give it with --key-file FILE"},
		{name: "huge key file", files: map[string]string{"k": strings.Repeat("x", 70000)}, keyFile: "DIR/k", kind: problem.Usage,
			text: `the key file of --key-file "DIR/k" cannot be read: it is too large: more than 65536 bytes`,
			hint: "this is another file than you think: look what it is"},
		{name: "settings as key file", files: map[string]string{"config": "{\n\t\"encryptionKey\": \"" + keyA + "\"\n}"}, keyFile: "DIR/config", kind: problem.Usage,
			text: `key file "DIR/config" is n8n's settings file, not a key`, hint: "give n8n's folder with --n8n-dir DIR, or a file with nothing but the encryptionKey"},
		{name: "missing _FILE", env: map[string]string{FromEnvFile: "DIR/none"}, kind: problem.NotFound, text: `the key file of N8N_ENCRYPTION_KEY_FILE "DIR/none" does not exist`, hint: "correct N8N_ENCRYPTION_KEY_FILE or unset it, or give the key with --key-file FILE"},
		{name: "empty _FILE", files: map[string]string{"f": " \n"}, env: map[string]string{FromEnvFile: "DIR/f"}, kind: problem.Usage, text: `the key file of N8N_ENCRYPTION_KEY_FILE "DIR/f" is empty`, hint: "correct N8N_ENCRYPTION_KEY_FILE or unset it, or give the key with --key-file FILE"},
		{name: "variable is not text", env: map[string]string{FromEnv: "\xff" + keyA}, kind: problem.Usage, text: `N8N_ENCRYPTION_KEY holds bytes that are not text`, hint: "a key is UTF-8 text, such as the encryptionKey in n8n's config; other bytes are not what n8n would use\ngive the key in a file with --key-file FILE"},
		{name: "config is not JSON", files: map[string]string{"config": "encryptionKey=" + keyA}, kind: problem.Usage, text: `n8n's settings file "DIR/config" is not JSON`,
			hint: "n8n cannot start with it either; if you know the key, give it with --key-file FILE"},
		{name: "config is empty", files: map[string]string{"config": ""}, kind: problem.Usage, text: `n8n's settings file "DIR/config" is not JSON`,
			hint: "n8n cannot start with it either; if you know the key, give it with --key-file FILE"},
		{name: "config without key", files: map[string]string{"config": `{"tunnelSubdomain":"x"}`}, kind: problem.Usage, text: `n8n's settings file "DIR/config" has no encryptionKey`,
			hint: "if you know the key, give it with --key-file FILE"},
		{name: "config with empty key", files: map[string]string{"config": `{"encryptionKey":""}`}, kind: problem.Usage, text: `n8n's settings file "DIR/config" has no encryptionKey`,
			hint: "if you know the key, give it with --key-file FILE"},
		{name: "config with number", files: map[string]string{"config": `{"encryptionKey":12345}`}, kind: problem.Usage, text: `n8n's settings file "DIR/config" has an encryptionKey that is not a string`, hint: "put quotes around it, or, if you know the key, give it with --key-file FILE"},
		{name: "config is huge", files: map[string]string{"config": strings.Repeat(" ", 2<<20)}, kind: problem.Usage,
			text: `n8n's settings file "DIR/config" cannot be read: it is too large: more than 1048576 bytes`,
			hint: "this is another file than you think: look what it is\nif you know the key, give it with --key-file FILE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			fill := func(s string) string { return strings.ReplaceAll(s, "DIR", dir) }
			for name, content := range tt.files {
				var err error
				switch name[0] {
				case '|':
					err = syscall.Mkfifo(filepath.Join(dir, name[1:]), 0o600)
				case '>':
					err = os.Symlink(content, filepath.Join(dir, name[1:]))
				default:
					err = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			sources := KeySources{KeyFile: fill(tt.keyFile), Dir: dir, N8NVersion: tt.version, Env: func(n string) (string, bool) { v, ok := tt.env[n]; return fill(v), ok }}
			if tt.noDir {
				sources.Dir = ""
			}
			_, err := ResolveKey(sources)
			hint := strings.ReplaceAll(tt.hint, `"DIR`, `"`+dir)
			if err == nil || err.Error() != fill(tt.text) || problem.KindOf(err) != tt.kind || problem.HintOf(err) != hint {
				t.Errorf("got  %v (%s) %q\nwant %s (%s) %q", err, problem.KindOf(err), problem.HintOf(err), fill(tt.text), tt.kind, hint)
			}
			if err != nil && strings.Contains(err.Error()+problem.HintOf(err), keyA) {
				t.Error("the error shows the key")
			}
		})
	}
}

// A source that is not needed does no harm.
func TestResolveKeyUnneededSource(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "config"), []byte("{"), 0o600), os.WriteFile(filepath.Join(dir, "k"), []byte(keyD), 0o644)); err != nil {
		t.Fatal(err)
	}
	got, err := ResolveKey(KeySources{Dir: dir, KeyFile: filepath.Join(dir, "k"), N8NVersion: v241,
		Env: func(n string) (string, bool) { return filepath.Join(dir, "none"), n == FromEnvFile }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		fmt.Sprintf("--key-file %q can be read by others (mode 0644): chmod 600 %[1]q", filepath.Join(dir, "k")),
		fmt.Sprintf("the key file of N8N_ENCRYPTION_KEY_FILE %q does not exist; it is not needed, --key-file %q has the key", filepath.Join(dir, "none"), filepath.Join(dir, "k")),
		fmt.Sprintf("n8n's settings file %q is not JSON; it is not needed, --key-file %q has the key", filepath.Join(dir, "config"), filepath.Join(dir, "k")),
	}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestNormalise(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " a ": "a", `"a"`: "a", `'a'`: "a", `"a'`: `"a'`, `""`: "", `"`: `"`, `" a "`: " a ", "`a`": "`a`",
		"\uFEFFa\u00a0": "a", "a\u0085": "a\u0085", "\"a\nb\"": "\"a\nb\"", `"a"b"`: `a"b`,
	} {
		if got := normalise(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReadConfigMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadConfig(dir)
	if !errors.Is(err, fs.ErrNotExist) || problem.KindOf(err) != problem.NotFound || err.Error() != fmt.Sprintf("n8n's settings file %q does not exist", filepath.Join(dir, "config")) {
		t.Error(err)
	}
}

// A pipe that the shell has opened, as for <(command), is read.
func TestResolveKeyFromOpenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(keyA + "\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for _, folder := range []string{"/dev/fd", "/proc/self/fd"} {
		got, err := ResolveKey(KeySources{KeyFile: fmt.Sprintf("%s/%d", folder, r.Fd())})
		if folder == "/dev/fd" && (err != nil || got.Key.Reveal() != keyA) || folder != "/dev/fd" && (err == nil || !strings.HasSuffix(err.Error(), "is empty")) {
			t.Errorf("%s: %v", folder, err)
		}
	}
}

func TestShortKeyWarning(t *testing.T) {
	for text, want := range map[string]string{
		"k":  "the instance key has only 1 character and could be guessed; n8n makes keys of 32",
		"kk": "the instance key has only 2 characters and could be guessed; n8n makes keys of 32",
	} {
		got, err := ResolveKey(KeySources{Env: envOf(FromEnv, text)})
		if err != nil || len(got.Warnings) != 1 || got.Warnings[0] != want {
			t.Errorf("%q %v", got.Warnings, err)
		}
	}
}

// TestNamedKeyFile: an error names the option that the file was given with.
func TestNamedKeyFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const option, hint = "--new-key-file", "give a file that holds n8n's instance key and nothing else, with --new-key-file FILE"
	settings := write("config", `{"encryptionKey": "`+keyA+`"}`)
	for file, text := range map[string]string{
		filepath.Join(dir, "none"):  `the key file of --new-key-file "DIR/none" does not exist`,
		write("empty", "\n"):        `the key file of --new-key-file "DIR/empty" is empty`,
		write("bytes", "\xff\x00a"): `--new-key-file "DIR/bytes" holds bytes that are not text`,
		settings:                    `key file "DIR/config" is n8n's settings file, not a key`,
	} {
		_, err := ResolveKey(KeySources{KeyFile: file, Named: option})
		if err == nil || err.Error() != strings.ReplaceAll(text, "DIR", dir) || !strings.HasSuffix(problem.HintOf(err), hint) || strings.Contains(problem.HintOf(err), " "+FromKeyFile) {
			t.Errorf("%v, %q", err, problem.HintOf(err))
		}
	}
	_, err := ResolveKey(KeySources{KeyFile: filepath.Join(dir, "none"), Named: "n8keep.yaml"})
	if err == nil || !strings.Contains(err.Error(), `the key file of n8keep.yaml "`) || !strings.Contains(problem.HintOf(err), "with --key-file FILE") {
		t.Errorf("%v, %q", err, problem.HintOf(err))
	}
	got, err := ResolveKey(KeySources{KeyFile: write("key", keyA), Named: option, Dir: dir})
	if err != nil || got.Winner.Name != option || len(got.Warnings) != 0 {
		t.Errorf("%+v %v", got, err)
	}
}
