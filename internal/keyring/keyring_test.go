package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// named keys have a fingerprint that is quick to come by, in alphabetical order.
func named(t testing.TB, letter string) Key {
	t.Helper()
	k, err := n8ncrypt.NewInstanceKey("keyring-test-key-" + letter + "-ü")
	if err != nil {
		t.Fatal(err)
	}
	return Key{Key: k, Fingerprint: n8ncrypt.Fingerprint("n8k1-" + strings.Repeat(letter, 16)), Path: "/keys/" + letter}
}

type clock struct{ now time.Time }

func (c *clock) next() time.Time {
	c.now = c.now.Add(time.Hour)
	return c.now
}

// quick takes named keys' fingerprints from their names.
func quick(r *Ring) *Ring {
	r.fingerprint = func(k n8ncrypt.InstanceKey) n8ncrypt.Fingerprint {
		if letter, ok := strings.CutPrefix(k.Reveal(), "keyring-test-key-"); ok {
			return n8ncrypt.Fingerprint("n8k1-" + strings.Repeat(letter[:1], 16))
		}
		return k.Fingerprint()
	}
	return r
}

func ring(t testing.TB) *Ring {
	t.Helper()
	c := &clock{time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)}
	return quick(New(Config{StateDir: filepath.Join(t.TempDir(), "state"), Now: c.next}))
}

func activate(t testing.TB, r *Ring, instance string, old, new Key) Activated {
	t.Helper()
	out, err := r.Activate(t.Context(), Activation{Instance: instance, Old: old, New: new, Rotation: "rot-" + string(new.Fingerprint[5])})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// opened are the letters of the keys that open, "?" for those that do not.
func opened(t testing.TB, r *Ring, instance string, active Key) string {
	t.Helper()
	list, err := r.Retired(t.Context(), instance, active.Key)
	if err != nil && len(list) == 0 {
		t.Fatal(err)
	}
	out := ""
	for _, x := range list {
		letter := string(x.Fingerprint[5])
		switch {
		case x.Key.IsZero():
			letter = "?"
		case !x.Key.Equal(named(t, letter).Key):
			t.Errorf("the key of %s is another one", letter)
		}
		out += letter
	}
	return out
}

func TestActivate(t *testing.T) {
	a, b, c, d := named(t, "a"), named(t, "b"), named(t, "c"), named(t, "d")
	r := ring(t)
	if list, err := r.Instances(); err != nil || len(list) != 0 {
		t.Fatalf("a keyring that does not exist: %v, %v", list, err)
	}
	if got := opened(t, r, "prod", a); got != "" {
		t.Errorf("nothing retired: %q", got)
	}
	out := activate(t, r, "prod", a, b)
	want := Entry{Instance: "prod", Active: Active{b.Fingerprint, "/keys/b", time.Date(2026, 8, 1, 1, 0, 0, 0, time.UTC)},
		Retired: []Retired{{Fingerprint: a.Fingerprint, To: time.Date(2026, 8, 1, 1, 0, 0, 0, time.UTC), Rotation: "rot-b", Under: b.Fingerprint}}}
	got, ok, err := r.Instance("prod")
	if diff := cmp.Diff(want, out.Entry); diff != "" || !out.Changed {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, got); diff != "" || !ok || err != nil {
		t.Error(diff, ok, err)
	}
	// A killed finalise is repeated, and finds its work done.
	before, _ := os.ReadFile(r.Path())
	if again := activate(t, r, "prod", a, b); again.Changed {
		t.Error("the second time something changed")
	}
	if after, _ := os.ReadFile(r.Path()); !bytes.Equal(before, after) {
		t.Error("the second time the file is another one")
	}
	activate(t, r, "other", d, a)
	out = activate(t, r, "prod", b, c)
	if len(out.Unopened) != 0 || opened(t, r, "prod", c) != "ba" || opened(t, r, "other", a) != "d" {
		t.Errorf("after the second rotation: %+v, %q, %q", out, opened(t, r, "prod", c), opened(t, r, "other", a))
	}
	if out.Entry.Retired[0].From != want.Active.Since {
		t.Errorf("b was active from %v, recorded %v", want.Active.Since, out.Entry.Retired[0].From)
	}
	for _, x := range out.Entry.Retired {
		if x.Under != c.Fingerprint {
			t.Errorf("%s is still under %s", x.Fingerprint, x.Under)
		}
	}
	// Back to a key of earlier: it is retired no longer.
	activate(t, r, "prod", c, a)
	if got := opened(t, r, "prod", a); got != "cb" {
		t.Errorf("after going back to a: %q", got)
	}
	// A new path of the same key.
	a.Path = "/elsewhere/a"
	if out = activate(t, r, "prod", Key{}, a); !out.Changed || out.Entry.Active.Path != "/elsewhere/a" || len(out.Entry.Retired) != 2 {
		t.Errorf("another path: %+v", out)
	}
	list, err := r.Instances()
	if err != nil || len(list) != 2 || list[0].Instance != "other" || list[1].Instance != "prod" {
		t.Errorf("instances: %v, %v", list, err)
	}
	info, err := os.Stat(r.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestKeyChangedByHand: what nobody gave the key for stays, and opens when it is
// there again.
func TestKeyChangedByHand(t *testing.T) {
	a, b, c, d := named(t, "a"), named(t, "b"), named(t, "c"), named(t, "d")
	r := ring(t)
	activate(t, r, "prod", a, b)
	out := activate(t, r, "prod", c, d) // somebody replaced b with c
	if diff := cmp.Diff([]n8ncrypt.Fingerprint{b.Fingerprint, a.Fingerprint}, out.Unopened); diff != "" {
		t.Error(diff)
	}
	if got := opened(t, r, "prod", d); got != "c??" {
		t.Errorf("with d: %q", got)
	}
	if got := opened(t, r, "prod", b); got != "??a" {
		t.Errorf("with b: %q", got)
	}
	if out.Entry.Retired[1].Rotation != "" || out.Entry.Retired[1].Under != "" {
		t.Errorf("b was replaced by none of our rotations: %+v", out.Entry.Retired[1])
	}
	// b turns up as the old key of a repeated finalise: everything is sealed anew.
	out = activate(t, r, "prod", b, d)
	if got := opened(t, r, "prod", d); got != "cba" || len(out.Unopened) != 0 {
		t.Errorf("with b given: %q, %v", got, out.Unopened)
	}
}

func TestRetiredWithAnotherKey(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	r := ring(t)
	activate(t, r, "prod", a, b)
	list, err := r.Retired(t.Context(), "prod", c.Key)
	if problem.KindOf(err) != problem.WrongKey || !strings.Contains(err.Error(), "opens no retired key of \"prod\": they are sealed under "+string(b.Fingerprint)) ||
		!strings.Contains(problem.HintOf(err), `"/keys/b"`) || len(list) != 1 {
		t.Errorf("%v, %v, %q", list, err, problem.HintOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Retired(ctx, "prod", b.Key); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestNamedWrongly: a key is not put under another one's name, and what does not open
// is not overwritten.
func TestNamedWrongly(t *testing.T) {
	a, b, c, d := named(t, "a"), named(t, "b"), named(t, "c"), named(t, "d")
	r := ring(t)
	activate(t, r, "prod", a, b)
	before, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	for name, act := range map[string]Activation{
		"old": {Instance: "prod", Old: Key{Key: d.Key, Fingerprint: b.Fingerprint}, New: c},
		"new": {Instance: "prod", Old: b, New: Key{Key: d.Key, Fingerprint: c.Fingerprint}},
	} {
		_, err := r.Activate(t.Context(), act)
		if problem.KindOf(err) != problem.WrongKey || !strings.Contains(err.Error(), "the "+name+" key has the fingerprint "+string(d.Fingerprint)) || !strings.Contains(problem.HintOf(err), "nothing was touched") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, err := os.ReadFile(r.Path()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the keyring was changed (%v)", err)
	}
	// a is sealed under b, which nobody gives.
	sealed := func(e []retired) [][]byte {
		var all [][]byte
		for _, x := range e {
			if x.Fingerprint == a.Fingerprint {
				all = append(all, x.Sealed)
			}
		}
		return all
	}
	was, err := r.read()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing changes
		out := activate(t, r, "prod", a, c)
		if diff := cmp.Diff([]n8ncrypt.Fingerprint{b.Fingerprint, a.Fingerprint}, out.Unopened); diff != "" {
			t.Error(diff)
		}
		now, err := r.read()
		if err != nil {
			t.Fatal(err)
		}
		if all := sealed(now.Instances["prod"].Retired); len(all) != 2 || !bytes.Equal(all[1], sealed(was.Instances["prod"].Retired)[0]) {
			t.Errorf("%d records, or the one that did not open was overwritten", len(all))
		}
		if got := opened(t, r, "prod", c); got != "?a?" {
			t.Errorf("with c: %q", got)
		}
	}
}

// TestTampering changes every member and every byte of a sealed key.
func TestTampering(t *testing.T) {
	old := named(t, "a")
	key, err := n8ncrypt.NewInstanceKey("another-key-for-tests")
	if err != nil {
		t.Fatal(err)
	}
	active := Key{Key: key, Fingerprint: key.Fingerprint()} // the real fingerprint, as it is computed again
	r := ring(t)
	activate(t, r, "prod", old, active)
	clean, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(clean, &f); err != nil {
		t.Fatal(err)
	}
	rec := f.Instances["prod"].Retired[0]
	check := func(name string, rec retired) {
		t.Helper()
		if _, err := rec.unseal(key); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	for i := range rec.Sealed {
		x := rec
		x.Sealed = bytes.Clone(rec.Sealed)
		x.Sealed[i] ^= 1
		check("a bit", x)
	}
	for n := range rec.Sealed {
		x := rec
		x.Sealed = rec.Sealed[:n]
		check("cut", x)
	}
	for name, change := range map[string]func(*retired){
		"fingerprint": func(x *retired) { x.Fingerprint = "n8k1-cccccccccccccccc" },
		"from":        func(x *retired) { x.From = x.To },
		"to":          func(x *retired) { x.To = x.To.Add(time.Nanosecond) },
		"rotation":    func(x *retired) { x.Rotation = "" },
		"under":       func(x *retired) { x.Under = old.Fingerprint },
	} {
		x := rec
		change(&x)
		check(name, x)
	}
	if err := os.WriteFile(r.Path(), bytes.Replace(clean, []byte(`"rotation": "rot-`), []byte(`"rotation": "ROT-`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := r.Retired(t.Context(), "prod", key)
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "the retired key n8k1-aaaaaaaaaaaaaaaa of \"prod\" was altered in keyring") ||
		!strings.Contains(problem.HintOf(err), "from a backup of the state folder") || len(list) != 1 {
		t.Errorf("%v, %v, %q", list, err, problem.HintOf(err))
	}
}

func TestUnreadable(t *testing.T) {
	r := ring(t)
	activate(t, r, "prod", named(t, "a"), named(t, "b"))
	clean, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		out := bytes.Replace(clean, []byte(old), []byte(new), 1)
		if bytes.Equal(out, clean) {
			t.Fatalf("nothing like %q in the keyring", old)
		}
		return out
	}
	for name, tc := range map[string]struct {
		content []byte
		kind    problem.Kind
		text    string
		hint    string
	}{
		"empty":       {nil, problem.Damaged, "it is empty", "take it from a backup of the state folder"},
		"cut":         {clean[:len(clean)/2], problem.Damaged, "it is not JSON, or cut", "move it away"},
		"no format":   {[]byte(`{"instances":{}}`), problem.Damaged, "it has no format", "move it away"},
		"newer":       {replace(`"format": 1`, `"format": 2`), problem.Usage, "has format 2, and this n8keep knows up to 1", "a newer n8keep wrote it"},
		"member":      {replace(`"retired"`, `"shares"`), problem.Damaged, "it has members that format 1 does not have", "move it away"},
		"instances":   {[]byte(`{"format":1}`), problem.Damaged, "it has no instances", "move it away"},
		"fingerprint": {replace("n8k1-b", "n8k1-0"), problem.Damaged, "a fingerprint of prod is none", "move it away"},
		"not whole":   {replace(`"under": "n8k1-bbbbbbbbbbbbbbbb",`, ""), problem.Damaged, "a retired key of prod is not whole", "move it away"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(r.Path(), tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, one := r.Instances()
			_, _, two := r.Instance("prod")
			_, three := r.Retired(t.Context(), "prod", named(t, "b").Key)
			_, four := r.Activate(t.Context(), Activation{Instance: "prod", New: named(t, "c")})
			five := r.Forget(t.Context(), "prod", named(t, "a").Fingerprint)
			for _, err := range []error{one, two, three, four, five} {
				if problem.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text) || !strings.Contains(problem.HintOf(err), tc.hint) {
					t.Errorf("%v, hint %q", err, problem.HintOf(err))
				}
			}
			if b, err := os.ReadFile(r.Path()); err != nil || !bytes.Equal(b, tc.content) {
				t.Error("the file was changed")
			}
		})
	}
	for name, make := range map[string]func() error{
		"it is no regular file":            func() error { return os.Mkdir(r.Path(), 0o700) },
		"it is a symbolic link to nowhere": func() error { return os.Symlink("nowhere", r.Path()) },
		"it is too large": func() error {
			return errors.Join(os.WriteFile(r.Path(), nil, 0o600), os.Truncate(r.Path(), sizeLimit+1))
		},
	} {
		if err := errors.Join(os.RemoveAll(r.Path()), make()); err != nil {
			t.Fatal(err)
		}
		_, err := r.Activate(t.Context(), Activation{Instance: "prod", New: named(t, "c")})
		if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "cannot be read: "+name) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenedBy(t *testing.T) {
	a, b, c, d := named(t, "a"), named(t, "b"), named(t, "c"), named(t, "d")
	r := ring(t)
	activate(t, r, "two", a, b)
	activate(t, r, "two", c, d) // b is known by name only, and a is under it
	activate(t, r, "one", a, c)
	got := func(keys ...n8ncrypt.InstanceKey) string {
		list, err := r.OpenedBy(t.Context(), keys...)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, e := range list {
			out += e.Instance + ":"
			for _, x := range e.Retired {
				out += string(x.Fingerprint[5])
				if x.Key.IsZero() {
					t.Errorf("%s of %s has no key", x.Fingerprint, e.Instance)
				}
			}
			out += " "
		}
		return strings.TrimSpace(out)
	}
	for want, keys := range map[string][]n8ncrypt.InstanceKey{
		"": {a.Key}, "two:a": {b.Key}, "two:c": {d.Key}, "one:a": {c.Key}, "one:a two:ca": {a.Key, d.Key, c.Key, b.Key},
	} {
		if s := got(keys...); s != want {
			t.Errorf("%q, want %q", s, want)
		}
	}
}

func TestForget(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	r := ring(t)
	activate(t, r, "prod", a, b)
	activate(t, r, "prod", b, c)
	if err := r.Forget(t.Context(), "prod", a.Fingerprint); err != nil {
		t.Fatal(err)
	}
	if got := opened(t, r, "prod", c); got != "b" {
		t.Errorf("left: %q", got)
	}
	err := r.Forget(t.Context(), "prod", a.Fingerprint)
	if problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), "has no retired key n8k1-aaaaaaaaaaaaaaaa of \"prod\"") || problem.HintOf(err) == "" {
		t.Errorf("twice: %v", err)
	}
	err = r.Forget(t.Context(), "prod", c.Fingerprint)
	if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "is the active one") || !strings.Contains(problem.HintOf(err), "n8keep rotate instance") {
		t.Errorf("the active one: %v", err)
	}
	if err := r.Forget(t.Context(), "none", a.Fingerprint); problem.KindOf(err) != problem.NotFound {
		t.Errorf("no such instance: %v", err)
	}
}

// TestTogether: several at once lose nothing.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	letters := "abcdefghijklmnop"
	var wg sync.WaitGroup
	for _, l := range strings.Split(letters, "") {
		wg.Go(func() {
			if _, err := quick(New(Config{StateDir: dir})).Activate(t.Context(), Activation{Instance: "n8n-" + l, Old: named(t, "z"), New: named(t, l)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := quick(New(Config{StateDir: dir})).Instances()
	if err != nil || len(list) != len(letters) {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

func TestLocked(t *testing.T) {
	r := quick(New(Config{StateDir: t.TempDir()}))
	lock, err := durable.TryLock(r.Path() + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	r.patience = time.Millisecond
	err = r.Forget(t.Context(), "prod", named(t, "a").Fingerprint)
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another n8keep holds keyring") || problem.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.patience = time.Hour
	if err := r.Forget(ctx, "prod", named(t, "a").Fingerprint); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestNothingInClear: the file has no key in it, in no form.
func TestNothingInClear(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	r := ring(t)
	activate(t, r, "prod", a, b)
	raw, err := os.ReadFile(r.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []Key{a, b} {
		quoted, _ := json.Marshal(k.Key.Reveal())
		sealed, _ := json.Marshal([]byte(k.Key.Reveal()))
		for _, form := range []string{k.Key.Reveal(), strings.Trim(string(quoted), `"`), strings.Trim(strings.TrimRight(string(sealed), `="`), `"`)} {
			if bytes.Contains(raw, []byte(form)) {
				t.Errorf("the keyring holds %s in clear", k.Fingerprint)
			}
		}
	}
	if _, err := r.Activate(t.Context(), Activation{Instance: "prod"}); problem.KindOf(err) != problem.Unexpected {
		t.Errorf("no key: %v", err)
	}
}

// TestVector opens what format 1 once wrote.
func TestVector(t *testing.T) {
	r := quick(New(Config{StateDir: "testdata/format1"}))
	got := opened(t, r, "prod", named(t, "c"))
	if got != "ba" {
		t.Errorf("format 1: %q", got)
	}
}
