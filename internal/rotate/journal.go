package rotate

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Names below the state folder.
const (
	folderName  = "rotations"
	journalName = "journal.json"
	lockName    = "lock"
	rowsName    = "rows.age"
	filesName   = "files.age"
	undoName    = "undo.age"
)

// State says how far a rotation came: what a command may do next, and what a kill
// leaves. It is part of the journal's format.
type State string

const (
	// Preparing: nothing of n8n was changed, at most it was stopped.
	Preparing State = "preparing"
	// Applying: the transaction is not committed, the database has the old values.
	// Staged files may lie beside the real ones.
	Applying State = "applying"
	// Committing: everything is staged and on the disk. The database has all old
	// values or all new ones, and only a census of it tells which.
	Committing State = "committing"
	// Applied: database and files have the new key; n8n was not proved with it yet.
	Applied State = "applied"
	// Verified: a rotation rests here, until it is finalised or rolled back.
	Verified State = "verified"
	// RollingBack: the transaction back is not committed.
	RollingBack State = "rolling-back"
	// RollbackCommitting: as Committing, the other way.
	RollbackCommitting State = "rollback-committing"
	// RollbackApplied: database and files have the old key again.
	RollbackApplied State = "rollback-applied"
	// Finalising: the rotation can not be undone any more; its keys are being destroyed.
	Finalising State = "finalising"

	// Finalised, RolledBack and Abandoned are ends. Abandoned had changed nothing.
	Finalised  State = "finalised"
	RolledBack State = "rolled-back"
	Abandoned  State = "abandoned"
)

// Ended reports whether the rotation is over, so that others may begin.
func (s State) Ended() bool { return s == Finalised || s == RolledBack || s == Abandoned }

var states = []State{Preparing, Applying, Committing, Applied, Verified, RollingBack, RollbackCommitting, RollbackApplied, Finalising, Finalised, RolledBack, Abandoned}

// StepName names a step.
type StepName string

// The steps in order, and those of a rollback.
const (
	StepBackup   StepName = "backup"
	StepStage    StepName = "stage"
	StepStop     StepName = "stop"
	StepApply    StepName = "apply"
	StepStart    StepName = "start"
	StepVerify   StepName = "verify"
	StepFinalise StepName = "finalise"

	StepRollbackStop   StepName = "rollback stop"
	StepRollbackApply  StepName = "rollback apply"
	StepRollbackStart  StepName = "rollback start"
	StepRollbackVerify StepName = "rollback verify"
)

// Results of a step.
const (
	Done    = "done"
	ByUser  = "by user" // n8keep has nothing to do it with
	Skipped = "skipped"
	Failed  = "failed"
)

// Step is one step, recorded before it begins and after it ended.
type Step struct {
	Name   StepName  `json:"step"`
	Begun  time.Time `json:"begun"`
	Ended  time.Time `json:"ended,omitzero"`
	Result string    `json:"result,omitempty"` // "" while it runs, or when it was killed
	Detail string    `json:"detail,omitempty"` // in words
}

// KeyRecord is what is remembered of an instance key.
type KeyRecord struct {
	Fingerprint n8ncrypt.Fingerprint `json:"fingerprint"`
	Path        string               `json:"path,omitempty"`
}

// Left is a value that opens under no key and stays as it is.
type Left struct {
	Place   n8ndb.PlaceID `json:"place"`
	Row     string        `json:"row"`
	Problem n8ndb.Problem `json:"problem"`
}

// PlaceProof is what was counted and digested in a place before the change, and found
// again after it. The digest is a chain over all values that opened, in census order.
type PlaceProof struct {
	Values int64  `json:"values"`
	Opened int64  `json:"opened"`
	Plain  int64  `json:"plain,omitempty"`
	Digest string `json:"digest,omitempty"` // "" where the plaintext is meant to change
}

// Undone counts what a rollback did.
type Undone struct {
	Restored  int64 `json:"restored"`  // columns and files that have their old bytes again
	Rewritten int64 `json:"rewritten"` // values written by n8n since, now under the old key
	Changed   int64 `json:"changed"`   // columns and files that n8n has changed since
	Gone      int64 `json:"gone"`      // rows and files that were deleted since
	Closed    int64 `json:"closed"`    // values of all executions and places that open under no key
	// NoActiveKey: n8n has no active data key any more.
	NoActiveKey bool `json:"no_active_data_key,omitempty"`
	// Under are columns with values under the new key that n8keep does not know, "table.column".
	Under []string `json:"under_new_key,omitempty"`
}

// Folder is the most that was ever found of the storage folder: what was there once
// must be there later.
type Folder string

const (
	NoFolder    Folder = ""
	EmptyFolder Folder = "empty"
	UsedFolder  Folder = "used" // n8n has kept executions in it
)

// JournalFormat is the format that this version writes.
const JournalFormat = 1

// Journal is journal.json: what is known of one rotation, without a secret but the
// wrapped journal key. It is replaced as a whole, never changed in place.
type Journal struct {
	Format   int             `json:"format"` // 1
	ID       string          `json:"id"`
	Instance string          `json:"instance"`
	Database string          `json:"database"` // no password
	Reopen   json.RawMessage `json:"reopen,omitempty"`
	State    State           `json:"state"`
	Started  time.Time       `json:"started"`
	Ended    time.Time       `json:"ended,omitzero"`
	Attempt  int             `json:"attempt"` // of apply; in the headers of rows.age and files.age, too
	Undo     int             `json:"undo"`    // of rollback; in the header of undo.age, too
	Old      KeyRecord       `json:"old_key"`
	New      KeyRecord       `json:"new_key"`
	Storage  string          `json:"storage,omitempty"`
	Folder   Folder          `json:"storage_found,omitempty"`
	Identity *Identity       `json:"identity,omitempty"` // of the database
	Service  string          `json:"service,omitempty"`  // in words
	Choices  Choices         `json:"choices"`
	All      bool            `json:"all_executions,omitempty"`
	Steps    []Step          `json:"steps"`
	Wrapped  *WrappedKey     `json:"journal_key,omitempty"` // nil once finalised

	// SameDatabase is another name of Database, which does not depend on how it is reached.
	SameDatabase string `json:"same_database,omitempty"`

	Backup *BackupRef `json:"backup,omitempty"`
	Fresh  *BackupRef `json:"fresh_backup,omitempty"` // taken by Finalise

	Files        []n8nhome.StagedFile         `json:"files,omitempty"`
	Places       map[n8ndb.PlaceID]PlaceProof `json:"places,omitempty"`
	ByPlace      map[n8ndb.PlaceID]int64      `json:"changed_by_place,omitempty"`
	Columns      int64                        `json:"columns"` // that were written
	Values       int64                        `json:"values"`  // that got new bytes, in files, too
	Bundles      int64                        `json:"bundles"` // files of executions that were written
	AlreadyNew   int64                        `json:"already_new,omitempty"`
	Left         []Left                       `json:"left,omitempty"` // the first 100
	LeftTotal    int64                        `json:"left_total,omitempty"`
	NewDataKey   string                       `json:"new_data_key,omitempty"` // id, with after_leak
	OldDataKey   string                       `json:"old_data_key,omitempty"` // id of the one that was active before
	ChangedSince []n8ndb.PlaceID              `json:"changed_since,omitempty"`
	// FoundNew counts values that were under the new key before the rotation began.
	FoundNew   int64       `json:"found_new,omitempty"`
	LeftBehind *LeftBehind `json:"left_behind,omitempty"`
	// Exposed counts the lines of the checklist after a leak, in exposure.age. Checklist
	// says that there is one, which may have no lines but advice.
	Exposed   int  `json:"exposed,omitempty"`
	Checklist bool `json:"checklist,omitempty"`
	// KeyElsewhere are places, in words, in which n8n's key is set and n8keep does not
	// change it.
	KeyElsewhere []string `json:"key_elsewhere,omitempty"`
	// From is the state from which a rollback set out, as long as the database is known to
	// be as it was there.
	From      State    `json:"rolled_back_from,omitempty"`
	Unchecked []string `json:"unchecked,omitempty"`
	Undone    *Undone  `json:"undone,omitempty"`

	dir string
}

// NewID makes the id of a rotation: time, instance, six random characters.
func NewID(instance string, now time.Time) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, instance)
	clean = strings.Trim(clean[:min(len(clean), 40)], "-")
	return now.UTC().Format("20060102T150405Z") + "-" + cmp.Or(clean, "n8n") + "-" + strings.ToLower(rand.Text()[:6])
}

var idText = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[a-z0-9-]{1,40}-[a-z0-9]{6}$`)

// Open reads the journal of an id, of a unique beginning of one, or of the "latest".
func Open(stateDir, id string) (*Journal, error) {
	if idText.MatchString(id) {
		return readJournal(filepath.Join(stateDir, folderName, id), id)
	}
	all, err := ids(stateDir)
	if err != nil {
		return nil, err
	}
	var fit []string
	for _, have := range all {
		if id != "" && strings.HasPrefix(have, id) {
			fit = append(fit, have)
		}
	}
	switch {
	case id == "latest" && len(all) > 0:
		return readJournal(filepath.Join(stateDir, folderName, all[len(all)-1]), all[len(all)-1])
	case len(fit) == 1:
		return readJournal(filepath.Join(stateDir, folderName, fit[0]), fit[0])
	case len(fit) > 1:
		return nil, problem.New(problem.Usage, "rotation %q is not unique: %s", id, strings.Join(fit, ", "))
	}
	return nil, notFound(stateDir, id)
}

func notFound(stateDir, id string) error {
	return problem.New(problem.NotFound, "there is no rotation %q in %q", id, stateDir).
		WithHint(`list them with "n8keep rotate status"`)
}

// ids are the folders of rotations, oldest first. One without a journal was killed
// before it began.
func ids(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, folderName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "listing rotations")
	}
	var list []string
	for _, e := range entries {
		if !e.IsDir() || !idText.MatchString(e.Name()) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(stateDir, folderName, e.Name(), journalName)); err == nil {
			list = append(list, e.Name())
		}
	}
	slices.Sort(list)
	return list, nil
}

// List reads all journals, oldest first. One that cannot be read ends it with an
// error and what was read.
func List(stateDir string) ([]*Journal, error) {
	all, err := ids(stateDir)
	if err != nil {
		return nil, err
	}
	var list []*Journal
	var failed []error
	for _, id := range all {
		j, err := readJournal(filepath.Join(stateDir, folderName, id), id)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		list = append(list, j)
	}
	if len(failed) > 0 {
		return list, failed[0]
	}
	return list, nil
}

// Unfinished returns the rotation of a database that has not ended, or nil. The database
// may go by several names, of which the journal has to have one. A journal that cannot
// be read is an error: it could be the one.
func Unfinished(stateDir string, names ...string) (*Journal, error) {
	list, err := List(stateDir)
	if err != nil {
		return nil, err
	}
	for _, j := range slices.Backward(list) {
		if j.Is(names...) && !j.State.Ended() {
			return j, nil
		}
	}
	return nil, nil
}

// Is reports whether the rotation is of the database with one of these names.
func (j *Journal) Is(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return name != "" && (name == j.Database || name == j.SameDatabase) })
}

// Busy is the error of other commands for a database whose rotation has not ended.
func (j *Journal) Busy() error {
	e := problem.New(problem.Busy, "the rotation %q of this database is not finalised: it is %s", j.ID, j.State)
	for _, next := range j.Next() {
		e = e.WithHint("%s", next)
	}
	return e
}

func readJournal(dir, id string) (*Journal, error) {
	if info, err := os.Lstat(filepath.Join(dir, journalName)); err == nil && !info.Mode().IsRegular() {
		return nil, damagedJournal(id, errors.New("it is no ordinary file"))
	}
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(filepath.Dir(filepath.Dir(dir)), id)
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading the journal of rotation %q", id)
	}
	j := &Journal{dir: dir}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, damagedJournal(id, err)
	}
	if head.Format != JournalFormat {
		return nil, problem.New(problem.Usage, "the journal of rotation %q has format %d, this n8keep knows %d", id, head.Format, JournalFormat).
			WithHint("nothing was touched: use the n8keep that began the rotation, or a newer one")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(j); err != nil {
		return nil, damagedJournal(id, err)
	}
	if err := j.check(id); err != nil {
		return nil, damagedJournal(id, err)
	}
	if j.All {
		j.Choices.Executions = n8ndb.AllExecutions
	}
	return j, nil
}

func damagedJournal(id string, err error) error {
	return problem.Wrap(problem.Damaged, err, "the journal of rotation %q cannot be read", id).
		WithHint("nothing was touched; keep its folder as it is, and n8n stopped, until somebody has looked at it")
}

// check refuses what this version did not write: the journal's names are followed.
func (j *Journal) check(id string) error {
	switch {
	case j.ID != id:
		return fmt.Errorf("it is of rotation %q", j.ID)
	case !slices.Contains(states, j.State):
		return fmt.Errorf("it has the unknown state %q", j.State)
	case j.Wrapped == nil && j.State != Finalised && j.State != Finalising && j.State != RolledBack && j.State != Abandoned:
		return errors.New("it has no journal key")
	}
	if j.Storage != "" && (!filepath.IsAbs(j.Storage) || filepath.Clean(j.Storage) != j.Storage) {
		return fmt.Errorf("it names the storage folder %q", j.Storage)
	}
	if !slices.Contains([]Folder{NoFolder, EmptyFolder, UsedFolder}, j.Folder) {
		return fmt.Errorf("it has found a storage folder %q", j.Folder)
	}
	for _, f := range j.Files {
		if !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path {
			return fmt.Errorf("it names the file %q", f.Path)
		}
	}
	return nil
}

// save replaces the journal on the disk.
func (j *Journal) save() error {
	j.All = j.Choices.Executions == n8ndb.AllExecutions
	b, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing the journal of rotation %q", j.ID)
	}
	failpoint.Hit("rotate.journal")
	if err := durable.WriteFile(filepath.Join(j.dir, journalName), append(b, '\n'), 0o600); err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing the journal of rotation %q", j.ID)
	}
	failpoint.Hit("rotate.journal-written")
	return nil
}

// Step returns the last record of a step, or nil.
func (j *Journal) Step(name StepName) *Step {
	for i := range slices.Backward(j.Steps) {
		if j.Steps[i].Name == name {
			return &j.Steps[i]
		}
	}
	return nil
}

// ended reports whether the last record of a step says that it was done.
func (j *Journal) ended(name StepName) bool {
	s := j.Step(name)
	return s != nil && !s.Ended.IsZero() && s.Result != Failed
}

// Downtime is from n8n's stop until it was healthy with the new key; 0 as long as
// that is not known, as when the user stops and starts it.
func (j *Journal) Downtime() time.Duration {
	stop, start := j.Step(StepStop), j.Step(StepStart)
	if stop == nil || start == nil || stop.Result != Done || start.Result != Done {
		return 0
	}
	return start.Ended.Sub(stop.Begun)
}

// Next are the commands that make sense now, in words.
func (j *Journal) Next() []string {
	command := func(name, what string) string { return fmt.Sprintf(`%s with "n8keep rotate %s %s"`, what, name, j.ID) }
	switch j.State {
	case Preparing, Applying, Committing, Applied:
		return []string{command("resume", "go on"), command("rollback", "or go back")}
	case Verified:
		return []string{command("finalise", "when n8n has proved itself, end it"), command("rollback", "or go back")}
	case RollingBack, RollbackCommitting, RollbackApplied:
		return []string{command("rollback", "go on")}
	case Finalising:
		return []string{command("finalise", "go on")}
	}
	return nil
}

// lastSwitch is the last step that stopped or started n8n, or tried to; nil when none did.
func (j *Journal) lastSwitch() *Step {
	for i := range slices.Backward(j.Steps) {
		switch j.Steps[i].Name {
		case StepStop, StepRollbackStop, StepStart, StepRollbackStart:
			return &j.Steps[i]
		}
	}
	return nil
}

func (s *Step) stops() bool { return s.Name == StepStop || s.Name == StepRollbackStop }

// stoppedByUs: n8keep has stopped n8n, and nobody has started it since, as far as the
// steps tell.
func (j *Journal) stoppedByUs() bool {
	s := j.lastSwitch()
	return s != nil && s.stops() && s.Result == Done
}

// startedAgain: n8keep has started n8n on the way back.
func (j *Journal) startedAgain() bool {
	s := j.lastSwitch()
	return s != nil && s.Name == StepRollbackStart && s.Result == Done
}

// stopped says what was done to n8n, as far as the steps tell: one that failed, or
// was killed, leaves it open. What people do meanwhile is in no journal.
func (j *Journal) stopped() string {
	s := j.lastSwitch()
	switch {
	case s == nil:
		return "n8n was not stopped"
	case s.Ended.IsZero() || s.Result == Failed:
		return "n8n may be running or not"
	case s.stops() && s.Result == ByUser:
		return "n8n was to be stopped by you"
	case s.stops():
		return "n8n was stopped by n8keep"
	case s.Result == ByUser:
		return "n8n was to be started by you"
	}
	return "n8n was started by n8keep"
}

// Situation says in words what the state is now.
func (j *Journal) Situation() string {
	stopped := j.stopped()
	switch j.State {
	case Preparing:
		return "nothing of n8n was changed, " + stopped
	case Applying:
		return "the database has its old values, " + stopped
	case Committing:
		return "the database has all of the old values or all of the new ones, which the next command finds out; " + stopped + ", and must not be started before"
	case Applied:
		return "database and files have the new key, and n8n was not proved with it yet"
	case Verified:
		if j.startedAgain() {
			return "the rollback has changed nothing: database and files have the new key, and n8n was started again with it"
		}
		return "database and files have the new key"
	case RollingBack:
		return "the rollback has changed nothing yet, " + stopped
	case RollbackCommitting:
		return "the rollback is through in all of the database or in nothing of it, which the next command finds out; " + stopped + ", and must not be started before"
	case RollbackApplied:
		return "database and files have the old key again"
	case Finalising:
		return "the new key stays, what could undo the rotation is being destroyed"
	case Finalised:
		return "the new key stays"
	case RolledBack:
		return "database and files have the old key"
	}
	if j.startedAgain() {
		return "nothing was changed; n8n runs again with the old key"
	}
	return "nothing was changed"
}
