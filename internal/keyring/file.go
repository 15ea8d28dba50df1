package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	formatVersion = 1
	sizeLimit     = 16 << 20 // 50,000 keys
	// lockPatience is how long another process may take for its change.
	lockPatience = 10 * time.Second
)

// file is keyring.json, and its order of members.
type file struct {
	Format    int                 `json:"format"`
	Instances map[string]instance `json:"instances"`
}

type instance struct {
	Active  active    `json:"active"`
	Retired []retired `json:"retired"`
}

type active struct {
	Fingerprint n8ncrypt.Fingerprint `json:"fingerprint"`
	Path        string               `json:"path"`
	Since       time.Time            `json:"since"`
}

type retired struct {
	Fingerprint n8ncrypt.Fingerprint `json:"fingerprint"`
	From        time.Time            `json:"from,omitzero"`
	To          time.Time            `json:"to"`
	Rotation    string               `json:"rotation,omitempty"`
	Under       n8ncrypt.Fingerprint `json:"under,omitempty"`
	Sealed      []byte               `json:"sealed,omitempty"`
}

func (in instance) entry(name string) Entry {
	e := Entry{Instance: name, Active: Active(in.Active), Retired: make([]Retired, len(in.Retired))}
	for i, r := range in.Retired {
		e.Retired[i] = Retired{Fingerprint: r.Fingerprint, From: r.From, To: r.To, Rotation: r.Rotation, Under: r.Under}
	}
	return e
}

// read returns the whole keyring; an empty one when there is no file.
func (r *Ring) read() (*file, error) {
	b, err := r.bytes()
	if missing(err) {
		return &file{Format: formatVersion, Instances: map[string]instance{}}, nil
	}
	if err != nil {
		return nil, problem.Wrap(problem.Usage, cause(err), "keyring %q cannot be read", r.path).
			WithHint("n8keep's state folder belongs to one user: run as that one, or name another folder with --state-dir")
	}
	return r.parse(b)
}

func (r *Ring) bytes() ([]byte, error) {
	info, err := os.Stat(r.path)
	switch {
	case missing(err):
		if _, err := os.Lstat(r.path); err == nil {
			return nil, errors.New("it is a symbolic link to nowhere")
		}
		return nil, err
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(r.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, sizeLimit+1))
	if err == nil && len(b) > sizeLimit {
		err = errors.New("it is too large")
	}
	return b, err
}

// parse never guesses: a keyring that was begun anew would cost the keys of older
// backups.
func (r *Ring) parse(b []byte) (*file, error) {
	damaged := func(why string) error {
		return problem.New(problem.Damaged, "keyring %q is damaged: %s", r.path, why).
			WithHint("take it from a backup of the state folder: it holds the keys that older backups open with").
			WithHint("if there is none, move it away; n8keep then begins a new one, without the retired keys")
	}
	var head struct {
		Format *int `json:"format"`
	}
	switch err := json.Unmarshal(b, &head); {
	case len(bytes.TrimSpace(b)) == 0:
		return nil, damaged("it is empty")
	case err != nil:
		return nil, damaged("it is not JSON, or cut")
	case head.Format == nil || *head.Format < 1:
		return nil, damaged("it has no format")
	case *head.Format > formatVersion:
		return nil, problem.New(problem.Usage, "keyring %q has format %d, and this n8keep knows up to %d", r.path, *head.Format, formatVersion).
			WithHint("a newer n8keep wrote it: use that one, or a newer one")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var f file
	if err := d.Decode(&f); err != nil {
		return nil, damaged("it has members that format 1 does not have, or of another kind")
	}
	if f.Instances == nil {
		return nil, damaged("it has no instances")
	}
	for name, in := range f.Instances {
		fps := []n8ncrypt.Fingerprint{in.Active.Fingerprint}
		for _, x := range in.Retired {
			fps = append(fps, x.Fingerprint)
			if x.Under != "" {
				fps = append(fps, x.Under)
			}
			if (x.Under == "") != (len(x.Sealed) == 0) {
				return nil, damaged("a retired key of " + name + " is not whole")
			}
		}
		for _, fp := range fps {
			if parsed, err := n8ncrypt.ParseFingerprint(string(fp)); err != nil || parsed != fp {
				return nil, damaged("a fingerprint of " + name + " is none")
			}
		}
	}
	return &f, nil
}

// change reads, changes and writes under the lock. do reports whether anything is
// to be written.
func (r *Ring) change(ctx context.Context, do func(*file) (bool, error)) error {
	dir := filepath.Dir(r.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return problem.Wrap(problem.Usage, cause(err), "making state folder %q", dir).WithHint("%s", writeHint)
	}
	lock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	failpoint.Hit("keyring.locked")
	f, err := r.read()
	if err != nil {
		return err
	}
	changed, err := do(f)
	if err != nil || !changed {
		return err
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing keyring %q", r.path)
	}
	failpoint.Hit("keyring.sealed")
	if err := durable.WriteFile(r.path, append(b, '\n'), 0o600); err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing the keyring").WithHint("%s", writeHint)
	}
	failpoint.Hit("keyring.written")
	return nil
}

const writeHint = "the state folder must be on a disk that has room, and belong to the user who runs n8keep; another one: --state-dir FOLDER"

func (r *Ring) lock(ctx context.Context) (*durable.Lock, error) {
	patience := time.NewTimer(r.patience)
	defer patience.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := durable.TryLock(r.path + ".lock")
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, problem.Wrap(problem.Unexpected, err, "locking the keyring").WithHint("%s", writeHint)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-patience.C:
			return nil, problem.New(problem.Busy, "another n8keep holds keyring %q", r.path).WithHint("run the command again when the other one has ended")
		case <-tick.C:
		}
	}
}

func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// activate is Activate on one instance; the receiver is left as it is.
func (in instance) activate(a Activation, now time.Time) (next instance, unopened []n8ncrypt.Fingerprint, changed bool) {
	next = instance{Active: in.Active, Retired: slices.Clone(in.Retired)}
	if next.Retired == nil {
		next.Retired = []retired{}
	}
	retire := func(r retired) {
		if !slices.ContainsFunc(next.Retired, func(x retired) bool { return x.Fingerprint == r.Fingerprint }) {
			next.Retired, changed = slices.Insert(next.Retired, 0, r), true
		}
	}
	if in.Active.Fingerprint != a.New.Fingerprint {
		if in.Active.Fingerprint != "" {
			r := retired{Fingerprint: in.Active.Fingerprint, From: in.Active.Since, To: now}
			if r.Fingerprint == a.Old.Fingerprint {
				r.Rotation = a.Rotation
			}
			retire(r)
		}
		next.Active, changed = active{a.New.Fingerprint, a.New.Path, now}, true
	} else if a.New.Path != "" && a.New.Path != in.Active.Path {
		next.Active.Path, changed = a.New.Path, true
	}
	if !a.Old.Key.IsZero() && a.Old.Fingerprint != a.New.Fingerprint {
		retire(retired{Fingerprint: a.Old.Fingerprint, To: now, Rotation: a.Rotation})
	}
	// A key that returns is no longer retired.
	n := len(next.Retired)
	next.Retired = slices.DeleteFunc(next.Retired, func(x retired) bool { return x.Fingerprint == a.New.Fingerprint })
	changed = changed || len(next.Retired) != n

	known := next.open(a.New.Key, a.Old.Key)
	if i := next.closed(known, a.Old.Fingerprint); i >= 0 && !a.Old.Key.IsZero() {
		// Sealed under a key that nobody gave, or altered: it stays, and the key that was
		// given gets a record of its own.
		r := next.Retired[i]
		r.Sealed, r.Under = nil, ""
		next.Retired, changed = slices.Insert(next.Retired, i, r), true
		known = slices.Insert(known, i, a.Old.Key)
	}
	for i := range next.Retired {
		r := &next.Retired[i]
		if r.Fingerprint == a.Old.Fingerprint && len(r.Sealed) == 0 {
			known[i] = a.Old.Key // its record is new
		}
		if known[i].IsZero() {
			unopened = append(unopened, r.Fingerprint)
			continue
		}
		if _, err := r.unseal(a.New.Key); err == nil && r.Under == a.New.Fingerprint {
			continue
		}
		r.seal(known[i], a.New)
		changed = true
	}
	return next, unopened, changed
}

// closed is the index of a key's record that is sealed, when none of its records was
// opened or is new; else -1.
func (in instance) closed(known []n8ncrypt.InstanceKey, fp n8ncrypt.Fingerprint) int {
	found := -1
	for i, r := range in.Retired {
		switch {
		case r.Fingerprint != fp:
		case !known[i].IsZero() || len(r.Sealed) == 0:
			return -1
		case found < 0:
			found = i
		}
	}
	return found
}

// open returns the retired keys that the given ones open, by index: directly, or
// through one another.
func (in instance) open(keys ...n8ncrypt.InstanceKey) []n8ncrypt.InstanceKey {
	out := make([]n8ncrypt.InstanceKey, len(in.Retired))
	for len(keys) > 0 {
		key := keys[0]
		keys = keys[1:]
		for i, r := range in.Retired {
			if !out[i].IsZero() || key.IsZero() {
				continue
			}
			if k, err := r.unseal(key); err == nil {
				out[i] = k
				keys = append(keys, k)
			}
		}
	}
	return out
}
