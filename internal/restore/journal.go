package restore

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/durable"
)

// Names that this package makes in a target folder.
const (
	stagingPrefix = ".n8keep-restore-" // + ID: the staging folder, 0700
	keptPrefix    = ".n8keep-before-"  // + ID: files that were replaced
	keptInfix     = ".before-"         // database.sqlite.before-ID
	journalName   = "journal.json"
	unpackedName  = "unpacked"
	homeName      = "home"
)

// stage is how far a restore came. A staging folder without a journal has
// nothing to undo: the journal is written before anything else and removed
// before the rest of the folder.
type stage string

const (
	// unpacking: the archive is being unpacked; nothing of the target was touched.
	unpacking stage = "unpacking"
	// placing: moves are under way. The staged database decides: while it is
	// still in the staging folder the old database stands and the moves are
	// undone; once it is gone the new one stands, and only its verification and
	// the cleaning are left.
	placing stage = "placing"
	// rollingBack: the new database did not prove itself; the moves are undone,
	// the database first.
	rollingBack stage = "rolling-back"
)

const journalFormat = 2

// journal is journal.json: JSON lines, first the journal without its moves, then
// each move. It is replaced as a whole, never changed in place, and only when the
// stage changes. In memory it is the moves alone, some 400 bytes and the length of
// the path three times for each file; on the disk the same without indentation.
// Format 1, one document with the moves in it, is read, too.
type journal struct {
	Format  int        `json:"format"` // 2
	ID      archive.ID `json:"id"`
	Started time.Time  `json:"started"`
	Stage   stage      `json:"stage"`
	Folders []string   `json:"folders"`         // folders made below the target, outermost first
	Count   int        `json:"count"`           // of the moves
	Flawed  bool       `json:"flawed"`          // the manifest says that the database fails its integrity check
	Moves   []move     `json:"moves,omitempty"` // the database's is the last; a member in format 1 only
}

// move is one file that is put in place. Names are relative to the target
// folder and slash-separated.
type move struct {
	Path    string    `json:"path"`             // where it goes
	Staged  string    `json:"staged,omitempty"` // where it comes from; "": what is at Path is only put aside
	Kept    string    `json:"kept,omitempty"`   // second name of what was at Path; "": nothing was there
	Size    int64     `json:"size"`             // of the staged file: how it is recognised at Path
	ModTime time.Time `json:"mod_time"`         // likewise
}

func (j *journal) database() (move, bool) {
	if len(j.Moves) == 0 {
		return move{}, false
	}
	return j.Moves[len(j.Moves)-1], true
}

func (f *folder) writeJournal(j *journal) error {
	path := stagingPrefix + string(j.ID) + "/" + journalName
	return f.do("journal", path, func() error {
		file, err := durable.Create(f.path(path), 0o600)
		if err != nil {
			return err
		}
		defer file.Abort()
		w := bufio.NewWriterSize(file, 64<<10)
		if err := j.encode(w); err != nil {
			return fmt.Errorf("writing the journal: %w", err)
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("writing the journal: %w", err)
		}
		return file.Commit()
	})
}

func (j *journal) encode(w io.Writer) error {
	head := *j
	head.Moves, head.Count = nil, len(j.Moves)
	e := json.NewEncoder(w)
	if err := e.Encode(&head); err != nil {
		return err
	}
	for i := range j.Moves {
		if err := e.Encode(&j.Moves[i]); err != nil {
			return err
		}
	}
	return nil
}

func (j *journal) decode(r io.Reader) error {
	d := json.NewDecoder(r)
	if err := d.Decode(j); err != nil {
		return err
	}
	switch j.Format {
	case 1:
		j.Format, j.Count = journalFormat, len(j.Moves)
	case journalFormat:
	default:
		return nil // check refuses it
	}
	for len(j.Moves) < j.Count {
		var m move
		if err := d.Decode(&m); err == io.EOF {
			return fmt.Errorf("it ends after %d of %d moves", len(j.Moves), j.Count)
		} else if err != nil {
			return err
		}
		j.Moves = append(j.Moves, m)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more after its last move")
	}
	return nil
}

// readJournal returns nil when there is none.
func (f *folder) readJournal(id archive.ID) (*journal, error) {
	file, err := f.root.Open(filepath.Join(stagingPrefix+string(id), journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	j := new(journal)
	if err := j.decode(bufio.NewReaderSize(file, 64<<10)); err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	return j, j.check(id)
}

// check refuses a journal that this version did not write: its names are
// followed, and the folder may belong to somebody else than us.
func (j *journal) check(id archive.ID) error {
	if j.Format != journalFormat {
		return fmt.Errorf("the journal has format %d, this n8keep knows %d", j.Format, journalFormat)
	}
	if j.ID != id {
		return fmt.Errorf("the journal is of archive %q", j.ID)
	}
	switch j.Stage {
	case unpacking, placing, rollingBack:
	default:
		return fmt.Errorf("the journal has the unknown stage %q", j.Stage)
	}
	if j.Stage != unpacking && len(j.Moves) == 0 {
		return errors.New("the journal has no moves")
	}
	for _, m := range j.Moves {
		for _, name := range []string{m.Path, m.Staged, m.Kept} {
			if name != "" && !localName(name) {
				return fmt.Errorf("the journal names %q, which is not below the folder", name)
			}
		}
		if m.Path == "" || m.Staged != "" && !strings.HasPrefix(m.Staged, stagingPrefix+string(id)+"/") {
			return fmt.Errorf("the journal has a move without a place")
		}
	}
	for _, name := range j.Folders {
		if !localName(name) {
			return fmt.Errorf("the journal names %q, which is not below the folder", name)
		}
	}
	return nil
}

// localName reports whether a slash-separated name stays below its folder and is
// spelled in the one way that a journal spells it.
func localName(name string) bool {
	return name != "." && filepath.IsLocal(filepath.FromSlash(name)) && filepath.ToSlash(filepath.Clean(filepath.FromSlash(name))) == name &&
		!strings.ContainsAny(name, "\\\x00")
}

// leftovers are the archives whose staging folders are in the target, in order.
func (f *folder) leftovers() ([]archive.ID, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var ids []archive.ID
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), stagingPrefix)
		if !ok || !e.IsDir() {
			continue
		}
		if id, err := archive.ParseID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
