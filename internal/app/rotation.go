package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/rotate"
	"github.com/n8keep/n8keep/internal/service"
)

// identity names the instance's database, so that commands see that they are about
// the same one: the real path of a file, or the address without user, password and
// parameters.
func (in *instance) identity() string {
	if in.dsn == "" {
		return realPath(in.database)
	}
	return postgresIdentity(in.dsn, in.schema, in.prefix)
}

func postgresIdentity(dsn, schema, prefix string) string {
	return inSchema(postgresLocation(dsn), schema, prefix)
}

// realPath is the path without symbolic links, as far as it exists.
func realPath(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		return filepath.Join(dir, filepath.Base(abs))
	}
	return abs
}

// notRotating is an error of kind Busy as long as a rotation of the database has not
// ended: whatever else changes it would take its way back away, or be undone by it.
func (a *App) notRotating(db *namedDatabase) error {
	all, err := rotate.List(a.StateDir)
	if err != nil {
		return a.unreadable(err)
	}
	for _, j := range slices.Backward(all) {
		if j.State.Ended() || !db.is(j) {
			continue
		}
		err := j.Busy()
		if p := (*problem.Error)(nil); errors.As(err, &p) && lockedDatabase(j.Database) != lockedDatabase(db.at) {
			p.WithHint("it was begun as %s, which is the same one, or a copy of its whole server or disk; give such a copy a state folder of its own with --state-dir", j.Database)
		}
		return err
	}
	return nil
}

// unreadable is about a journal that may be of this database, or of another one.
func (a *App) unreadable(err error) error {
	p := problem.Wrap(problem.KindOf(err), err, "whether a rotation of this database is under way is not known")
	return p.WithHint("%s", problem.HintOf(err)).
		WithHint("if it is the journal of another database, or nothing of it is needed, move its folder out of %q", filepath.Join(a.StateDir, "rotations"))
}

// reopening is what a rotation's journal keeps, so that it can be gone on with by its
// id alone. It holds addresses without passwords, and references.
type reopening struct {
	N8NDir         string       `json:"n8n_dir,omitempty"`
	Database       string       `json:"database,omitempty"` // a path, an address or a reference; "" for what n8n's variables say
	TablePrefix    string       `json:"table_prefix,omitempty"`
	Schema         string       `json:"schema,omitempty"`
	Service        service.Spec `json:"service,omitzero"`
	Targets        []string     `json:"targets,omitempty"`
	Recipients     []string     `json:"recipients,omitempty"`
	RecipientFiles []string     `json:"recipient_files,omitempty"`
	AssumeStopped  bool         `json:"assume_stopped,omitempty"`
	KeySetByUser   bool         `json:"key_set_by_user,omitempty"`
}

// Rotations lists what the state folder knows. Beside an error about a journal that cannot
// be read it returns the others.
func (a *App) Rotations(ctx context.Context) (*api.Rotations, error) {
	if a.stateNamed && !isDir(a.StateDir) {
		return nil, problem.New(problem.Usage, "there is no state folder %q", a.StateDir).
			WithHint("give the one in which the rotation was begun with --state-dir, or leave that out: the default is ~/.local/state/n8keep")
	}
	list, err := rotate.List(a.StateDir)
	if err != nil && len(list) == 0 {
		return nil, err
	}
	doc := &api.Rotations{Rotations: []api.Rotation{}, Warnings: []string{}}
	for _, j := range slices.Backward(list) {
		doc.Rotations = append(doc.Rotations, *rotationDoc(j))
	}
	return doc, cmp.Or(ctx.Err(), err)
}

// RotationStatus shows one rotation.
func (a *App) RotationStatus(ctx context.Context, id string) (*api.Rotation, error) {
	j, err := rotate.Open(a.StateDir, id)
	if err != nil {
		return nil, err
	}
	return rotationDoc(j), ctx.Err()
}

// rotationDoc is a journal as people and scripts see it.
func rotationDoc(j *rotate.Journal) *api.Rotation {
	doc := &api.Rotation{ID: j.ID, Instance: j.Instance, Database: j.Database, State: string(j.State), Started: j.Started.UTC(), Ended: timeOf(j.Ended),
		OldKey: keyRef(j.Old), NewKey: keyRef(j.New), AfterLeak: j.Choices.AfterLeak, Steps: []api.RotationStep{}, Backup: backupRefDoc(j.Backup), Fresh: backupRefDoc(j.Fresh),
		Values: j.Values, Quarantine: j.LeftTotal, ExposedTotal: j.Exposed, Downtime: j.Downtime().Seconds(), Do: []string{}, Next: list(j.Next()), Warnings: []string{}}
	for _, s := range j.Steps {
		step := api.RotationStep{Step: string(s.Name), State: first(s.Result, "begun"), Began: timeOf(s.Begun), Detail: s.Detail}
		if !s.Ended.IsZero() {
			step.Seconds = s.Ended.Sub(s.Begun).Seconds()
		}
		doc.Steps = append(doc.Steps, step)
	}
	if l := j.LeftBehind; l != nil && j.State != rotate.RolledBack && j.State != rotate.Abandoned {
		doc.LeftBehind, doc.LeftValues, doc.LeftKeyed, doc.LeftUnseen, doc.LeftUnread = l.Executions, l.Values, l.Keyed, l.Unseen, l.Unread
	}
	if u := j.Undone; u != nil {
		doc.Rollback = &api.RolledBack{Restored: u.Restored, Rewritten: u.Rewritten, Gone: u.Gone}
	}
	for _, l := range j.Left {
		doc.Left = append(doc.Left, api.Secret{Place: string(l.Place), Row: l.Row, Problem: string(l.Problem)})
	}
	for _, b := range []*rotate.BackupRef{j.Backup, j.Fresh} {
		if b != nil && len(b.Missed) > 0 {
			doc.Warnings = append(doc.Warnings, fmt.Sprintf("the backup %q is in %s, and not in %s", b.ID, b.Target, strings.Join(b.Missed, "; ")))
		}
	}
	if !j.State.Ended() {
		doc.Situation = j.Situation()
	}
	return doc
}

func keyRef(k rotate.KeyRecord) api.KeyRef {
	return api.KeyRef{Fingerprint: string(k.Fingerprint), Path: k.Path}
}

func backupRefDoc(b *rotate.BackupRef) *api.RotationBackup {
	if b == nil {
		return nil
	}
	return &api.RotationBackup{ID: b.ID, Target: b.Target, Created: b.Created.UTC(), Taken: b.Taken, Missed: b.Missed}
}

// journalGone is what to say when a rotation has failed and its journal is not there any
// more, because a command that stops or starts n8n, or somebody, has removed it: what
// failed since failed because of it.
func (a *App) journalGone(err error, done *api.Rotation) error {
	dir := filepath.Join(a.StateDir, "rotations", done.ID)
	if _, gone := os.Stat(dir); err == nil || !errors.Is(gone, fs.ErrNotExist) {
		return err
	}
	p := problem.New(problem.Damaged, "the journal of rotation %q was removed while it was under way: there is no %q any more", done.ID, dir)
	if done.Situation != "" {
		p.WithHint("%s", done.Situation)
	}
	p.WithHint("find out what removes it: a command that stops or starts n8n?").
		WithHint("if there is a copy of the folder, put it back and go on with \"n8keep rotate resume %s\"; if not, there is no way back: keep both keys, and see with \"n8keep key find --candidate FILE\" which one opens the database", done.ID)
	if done.Backup != nil {
		p.WithHint("the backup of before the rotation is %q in %s", done.Backup.ID, done.Backup.Target)
	}
	done.Next = []string{}
	return p
}

// since is how many seconds ago t was.
func (a *App) since(t time.Time) float64 { return a.Now().Sub(t).Seconds() }
