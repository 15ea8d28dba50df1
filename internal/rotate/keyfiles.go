package rotate

import (
	"errors"
	"io/fs"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// change is what key files go through, with what was in one before.
func (e *engine) change(before []byte) n8nhome.KeyChange {
	return n8nhome.KeyChange{Old: e.cfg.Old.Key, New: e.cfg.New.Key, Before: secret.NewBytes(before)}
}

// stageKey stages one of the journal's key files.
func (e *engine) stageKey(i int) error {
	f := n8nhome.KeyFile{Form: e.j.Files[i].Form, Name: e.j.Files[i].Path}
	return e.do("stage-key", f.Name, func() error {
		staged, err := f.Stage(e.change(nil))
		if err == nil {
			e.j.Files[i] = staged
		}
		return err
	})
}

// keyIn is the key that a key file has now.
func keyIn(f n8nhome.StagedFile) (n8ncrypt.InstanceKey, error) {
	return n8nhome.KeyFile{Form: f.Form, Name: f.Path}.Key()
}

// restageKeys stages the files again, as n8n has left them when it stopped, and writes
// what is in them to the journal's files.
func (e *engine) restageKeys(w *recordWriter) error {
	for i := range e.j.Files {
		if err := e.stageKey(i); err != nil {
			return err
		}
		f := e.j.Files[i]
		if err := w.record(keyRecord, f.Path, string(f.Before().Reveal())); err != nil {
			return err
		}
	}
	return nil
}

// keyContents reads what was in the key files from the journal.
func (e *engine) keyContents() (map[string][]byte, error) {
	before := map[string][]byte{}
	for f, err := range e.records(filesName, e.j.Attempt) {
		if err != nil {
			return nil, err
		}
		if len(f) == 3 && f[0] == keyRecord {
			before[f[1]] = []byte(f[2])
		}
	}
	for _, f := range e.j.Files {
		if _, ok := before[f.Path]; !ok {
			return nil, problem.New(problem.Damaged, "%q of rotation %q does not hold what was in %q", filesName, e.j.ID, f.Path)
		}
	}
	return before, nil
}

// applyKeys gives the key files the new key, undoKeys the old one. Both may be
// repeated.
func (e *engine) applyKeys() error {
	before, err := e.keyContents()
	if err != nil {
		return err
	}
	for _, f := range e.j.Files {
		if err := e.do("apply-key", f.Path, func() error { return f.Apply(e.change(before[f.Path])) }); err != nil {
			return err
		}
	}
	return nil
}

// otherKeyFile is the first key file that holds another key: n8n would start with it and
// open nothing.
func (e *engine) otherKeyFile(key n8ncrypt.InstanceKey) (path string, err error) {
	for _, f := range e.j.Files {
		has, err := keyIn(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // n8n makes it anew, with the key it is given elsewhere
		case err != nil:
			return "", err
		case !has.Equal(key):
			return f.Path, nil
		}
	}
	return "", nil
}

// filesHoldNew fails when somebody has put another key into a key file since.
func (e *engine) filesHoldNew() error {
	path, err := e.otherKeyFile(e.cfg.New.Key)
	if err != nil || path == "" {
		return err
	}
	return problem.New(problem.CheckFailed, "%q does not hold the new key any more: somebody has changed it since the rotation", path).
		WithHint("put the new key there, for n8n opens nothing with another one, and see what wrote the file: a deployment tool would do it again")
}

// changeable finds out before anything is changed whether every key file can be given
// the other key; before has what was in them.
func (e *engine) changeable(before map[string][]byte) error {
	for _, f := range e.j.Files {
		if err := e.do("try-key", f.Path, func() error { return f.Changeable(e.change(before[f.Path])) }); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) undoKeys() error {
	before, err := e.keyContents()
	if err != nil {
		return err
	}
	for _, f := range e.j.Files {
		var exact bool
		err := e.do("undo-key", f.Path, func() (err error) {
			exact, err = f.Undo(e.change(before[f.Path]))
			return err
		})
		if err != nil {
			return err
		}
		if exact {
			e.j.Undone.Restored++
		} else {
			e.j.Undone.Changed++
			e.warn("%q was written by n8n since: only the key in it is the old one again", f.Path)
		}
	}
	return nil
}

func (e *engine) discardKeys() error {
	var failed []error
	for _, f := range e.j.Files {
		failed = append(failed, e.do("discard-key", f.Path, f.Discard))
	}
	return errors.Join(failed...)
}
