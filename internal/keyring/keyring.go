// Package keyring remembers which instance key an n8n has and which ones it had:
// per instance the active key, by fingerprint and by the path of its file, and
// the retired ones, because an older backup opens with the key of its time only.
//
// The active key itself is never in it. A retired key is kept sealed under the
// active one, so that whoever has the active key has them all, and whoever has
// this file and no key has none. The file is <state>/keyring.json, 0600, format 1:
//
//	{"format": 1, "instances": {"NAME": {
//	  "active":  {"fingerprint": "n8k1-...", "path": "/etc/n8n.key", "since": TIME},
//	  "retired": [{"fingerprint": "n8k1-...", "from": TIME, "to": TIME, "rotation": ID,
//	               "under": "n8k1-...", "sealed": base64}]}}}
//
//	sealed = salt[32] | AES-256-GCM(retired key as UTF-8)
//	AES key[32] | nonce[12] = HKDF-SHA-256(UTF-8 instance key, salt, "n8keep/keyring/v1", 44)
//	additional data = "n8keep/keyring/v1" 0 fingerprint 0 from 0 to 0 rotation 0 under
//
// Times are RFC 3339 in UTC, "" in the additional data when they are not known. A
// retired key without "sealed" is one that was active when somebody changed the
// key without n8keep: only its name is known.
//
// The file is written whole, under a lock, and is the old or the new one after a
// crash. What cannot be sealed anew, because the key that it is under is not
// given, stays byte for byte: nothing that is done here but [Ring.Forget] loses a
// key. A file that cannot be read is an error and is never begun anew.
//
// Old data: every format once written is read by every later version; a newer one
// is refused.
//
// Trust boundary: who can write the file can take keys out of it and rename
// files in it, and cannot read a key, put another in its place or change the
// fingerprint and times of one without being noticed.
package keyring

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// FileName is the keyring's in the state folder.
const FileName = "keyring.json"

// Config says where the keyring is.
type Config struct {
	StateDir string           // required; made (0700) by the first write
	Now      func() time.Time // nil: time.Now
}

// Ring is a keyring. It holds nothing but the path: each method reads the file, and
// is safe for concurrent use, also by several processes.
type Ring struct {
	path        string
	now         func() time.Time
	patience    time.Duration
	fingerprint func(n8ncrypt.InstanceKey) n8ncrypt.Fingerprint
}

// New returns the keyring of a state folder. It does no I/O.
func New(cfg Config) *Ring {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Ring{path: filepath.Join(cfg.StateDir, FileName), now: cfg.Now, patience: lockPatience, fingerprint: n8ncrypt.InstanceKey.Fingerprint}
}

// Path is the keyring's file, which need not exist.
func (r *Ring) Path() string { return r.path }

// Entry is what is known of one instance.
type Entry struct {
	Instance string
	Active   Active
	Retired  []Retired // the last one that was active first
}

// Active is the key that an instance has now.
type Active struct {
	Fingerprint n8ncrypt.Fingerprint
	Path        string    // of the file with the key, "" when not known
	Since       time.Time // UTC, by the second
}

// Retired is a key that an instance had.
type Retired struct {
	Fingerprint n8ncrypt.Fingerprint
	From        time.Time // zero when not known
	To          time.Time
	Rotation    string // id of the rotation that replaced it, "" for none of ours
	// Under is the key that seals this one, "" when only its name is known.
	Under n8ncrypt.Fingerprint
	// Key is the key itself where [Ring.Retired] opened it, else zero.
	Key n8ncrypt.InstanceKey
}

// Key is an instance key and what is known of it.
type Key struct {
	Key         n8ncrypt.InstanceKey
	Fingerprint n8ncrypt.Fingerprint // "" for whatever Key's is
	Path        string               // absolute path of the file that holds it, "" for none
}

// Activation says that an instance has a new key.
type Activation struct {
	Instance string // required
	Old      Key    // the key it had; zero when there was none or nobody has it
	New      Key    // required
	Rotation string // id of the rotation, for people; optional
}

// Activated is what Activate made.
type Activated struct {
	Entry Entry
	// Changed is false when everything stood there already.
	Changed bool
	// Unopened are retired keys that neither Old nor New opens. They were left as
	// they are.
	Unopened []n8ncrypt.Fingerprint
}

// Instances are all entries by name, without keys. A keyring that does not exist
// is empty. One that is damaged is Damaged, one of a newer n8keep or one that may
// not be read is Usage; both have a hint.
func (r *Ring) Instances() ([]Entry, error) {
	f, err := r.read()
	if err != nil {
		return nil, err
	}
	list := make([]Entry, 0, len(f.Instances))
	for name, in := range f.Instances {
		list = append(list, in.entry(name))
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmpString(a.Instance, b.Instance) })
	return list, nil
}

// Instance is the entry of one instance, without keys; false when there is none.
// Errors are those of Instances.
func (r *Ring) Instance(name string) (Entry, bool, error) {
	f, err := r.read()
	if err != nil {
		return Entry{}, false, err
	}
	in, ok := f.Instances[name]
	if !ok {
		return Entry{}, false, nil
	}
	return in.entry(name), true, nil
}

// Activate makes New the active key of the instance, retires Old, sealed under
// New, and seals every earlier key that Old or New opens under New. Doing it again
// changes nothing. An active key that is neither of the two is retired by name
// only. It computes the fingerprint of both keys, half a second each; a key that has
// another one than it is named with is WrongKey, and nothing is written.
func (r *Ring) Activate(ctx context.Context, a Activation) (Activated, error) {
	if a.Instance == "" || a.New.Key.IsZero() {
		return Activated{}, problem.New(problem.Unexpected, "activating a key needs an instance and a key")
	}
	if err := errors.Join(r.complete("new", &a.New), r.complete("old", &a.Old)); err != nil {
		return Activated{}, err
	}
	var out Activated
	err := r.change(ctx, func(f *file) (bool, error) {
		in := f.Instances[a.Instance]
		next, unopened, changed := in.activate(a, r.now().UTC().Truncate(time.Second))
		f.Instances[a.Instance] = next
		out = Activated{next.entry(a.Instance), changed, unopened}
		return changed, nil
	})
	if err != nil {
		return Activated{}, err
	}
	return out, nil
}

func (r *Ring) complete(name string, k *Key) error {
	if k.Key.IsZero() {
		return nil
	}
	is := r.fingerprint(k.Key)
	if k.Fingerprint != "" && k.Fingerprint != is {
		return problem.New(problem.WrongKey, "the %s key has the fingerprint %s, and not %s as it must", name, is, k.Fingerprint).
			WithHint("nothing was touched; give the key that has it")
	}
	k.Fingerprint = is
	return nil
}

// Retired opens the retired keys of an instance with its active key, the last one
// first. The list is complete beside an error, too: what did not open has a zero
// Key. Nothing retired, or no such instance: an empty list.
//
// A sealed key that was altered is Damaged. A key that is not the active one,
// and opens none, is WrongKey.
func (r *Ring) Retired(ctx context.Context, instance string, active n8ncrypt.InstanceKey) ([]Retired, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := r.read()
	if err != nil {
		return nil, err
	}
	in, ok := f.Instances[instance]
	if !ok || len(in.Retired) == 0 {
		return []Retired{}, nil
	}
	keys := in.open(active)
	list, closed, opened := in.entry(instance).Retired, 0, 0
	for i := range list {
		switch list[i].Key = keys[i]; {
		case !keys[i].IsZero():
			opened++
		case len(in.Retired[i].Sealed) > 0:
			closed++
		}
	}
	if closed == 0 {
		return list, nil
	}
	name := active.Fingerprint() // costs half a second, and only now
	for i := range list {
		if keys[i].IsZero() && list[i].Under == name {
			return list, problem.New(problem.Damaged, "the retired key %s of %q was altered in keyring %q", list[i].Fingerprint, instance, r.path).
				WithHint("take %q from a backup of the state folder; the key itself may still be where it was kept before the rotation", FileName)
		}
	}
	if opened == 0 {
		return list, problem.New(problem.WrongKey, "key %s opens no retired key of %q: they are sealed under %s", name, instance, list[0].under(in)).
			WithHint("give the key that is active now; the keyring has %s from %q", in.Active.Fingerprint, in.Active.Path)
	}
	return list, nil
}

// OpenedBy are the retired keys of all instances that any of the given keys opens,
// directly or through one another, by instance. It takes no notice of those that
// stay closed. Errors are those of Instances.
func (r *Ring) OpenedBy(ctx context.Context, keys ...n8ncrypt.InstanceKey) ([]Entry, error) {
	f, err := r.read()
	if err != nil {
		return nil, err
	}
	var list []Entry
	for name, in := range f.Instances {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		opened := in.open(keys...)
		e := in.entry(name)
		e.Retired = e.Retired[:0]
		for i, x := range in.entry(name).Retired {
			if x.Key = opened[i]; !x.Key.IsZero() {
				e.Retired = append(e.Retired, x)
			}
		}
		if len(e.Retired) > 0 {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmpString(a.Instance, b.Instance) })
	return list, nil
}

func (r Retired) under(in instance) n8ncrypt.Fingerprint {
	if r.Under != "" {
		return r.Under
	}
	return in.Active.Fingerprint
}

// Forget takes a retired key out of the keyring: the backups of its time open
// never again unless the key is elsewhere, too. The active key is Usage, one that
// is not there NotFound.
func (r *Ring) Forget(ctx context.Context, instance string, fp n8ncrypt.Fingerprint) error {
	return r.change(ctx, func(f *file) (bool, error) {
		in, ok := f.Instances[instance]
		if ok && in.Active.Fingerprint == fp {
			return false, problem.New(problem.Usage, "key %s of %q is the active one", fp, instance).
				WithHint("only retired keys can be forgotten; replace it first with \"n8keep rotate instance\"")
		}
		kept := slices.DeleteFunc(slices.Clone(in.Retired), func(x retired) bool { return x.Fingerprint == fp })
		if len(kept) == len(in.Retired) {
			return false, problem.New(problem.NotFound, "keyring %q has no retired key %s of %q", r.path, fp, instance).
				WithHint("the fingerprints of an instance's keys stand in that file")
		}
		in.Retired = kept
		f.Instances[instance] = in
		return true, nil
	})
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
