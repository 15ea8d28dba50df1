package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// markerPrefix begins the name of a file without content that stands for the
// database in the journal of the files. While it is in the staging folder, the
// new database has not taken the place, and a killed restore's files are undone;
// it is placed after the swap, and then removed.
const markerPrefix = ".n8keep-restored-"

// filesPart is the folder of n8n's files in a restore to a server. It uses the
// engine for folders with the marker as database.
type filesPart struct {
	apply
	recovered Recovery
}

// planFiles looks at the folder for the files.
func planFiles(ctx context.Context, cfg Config) (*filesPart, error) {
	t, err := locate(cfg.To)
	if err != nil {
		return nil, err
	}
	f := &filesPart{}
	var made map[string]bool
	if t.exists {
		if f.recovered, made, err = recoverTarget(ctx, t.dir, cfg.recovery()); err != nil {
			return nil, err
		}
		if err := t.inspectConfig(&cfg, made); err != nil {
			return nil, err
		}
	}
	if t.mounts, err = mountsBelow(t.dir); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading the list of mounts")
	}
	owner, err := t.checkOwner(&cfg)
	if err != nil {
		return nil, err
	}
	t.database, t.size = markerPrefix+string(cfg.Sidecar.ID), 0
	f.apply = apply{Config: cfg, target: t, owner: owner}
	return f, nil
}

func (f *filesPart) configOutcome() string {
	switch {
	case f.config:
		return ConfigKept
	case f.NoConfig:
		return ConfigLeftOut
	}
	return ConfigWritten
}

// placedFiles are in place, and can be taken back. A nil one is a restore without files.
type placedFiles struct {
	*filesPart
}

// placeFiles stages and places the files of the archive.
func (a *applyPostgres) placeFiles(ctx context.Context) (*placedFiles, error) {
	f := a.plan.files
	if f == nil {
		return nil, nil
	}
	f.report.Warnings = []string{}
	f.unpacked = a.unpacked
	f.unpacked.Files = append([]File{}, a.unpacked.Files...)
	if err := f.makeFolder(); err != nil {
		f.unmakeFolder()
		return nil, err
	}
	var err error
	if f.folder, err = openFolder(f.target.dir, f.AssumeStopped, f.Config.faults); err != nil {
		f.unmakeFolder()
		return nil, openProblem(err, f.target.dir)
	}
	placed := &placedFiles{f}
	if err := f.stageFiles(ctx, a.WorkDir); err != nil {
		return nil, placed.undo(err)
	}
	f.Progress("putting files in place")
	err = f.planMoves(&holding{})
	if err == nil {
		err = f.replacesNothing()
	}
	if err == nil {
		err = f.moveOthers(ctx)
	}
	if err != nil {
		return nil, placed.undo(err)
	}
	failpoint.Hit("restore.files-placed")
	return placed, nil
}

// stageFiles copies what was unpacked into a staging folder beside its place.
func (f *filesPart) stageFiles(ctx context.Context, work string) error {
	again, _, err := f.recover(ctx, f.recovery())
	if err != nil {
		return err
	}
	f.recovered.Runs = append(f.recovered.Runs, again.Runs...)
	id := f.Sidecar.ID
	// Flawed: the marker is no database whose integrity could be checked.
	f.journal = &journal{Format: journalFormat, ID: id, Started: f.Now().UTC(), Stage: unpacking, Moves: []move{}, Folders: []string{}, Flawed: true}
	dir := stagingPrefix + string(id)
	for _, name := range []string{dir, dir + "/" + unpackedName, dir + "/" + homeName} {
		if err := f.mkdir(name, 0o700, nil); err != nil {
			return f.failed(err, "making the staging folder in %q", f.folder.dir)
		}
		if name == dir {
			if err := f.writeJournal(f.journal); err != nil {
				return f.failed(err, "writing the journal in %q", f.folder.dir)
			}
		}
	}
	for i := range f.unpacked.Files {
		file := &f.unpacked.Files[i]
		if !localName(file.Path) {
			return f.misfit("it has a file %q, which leads out of the folder", file.Path)
		}
		if err := ctx.Err(); err != nil {
			return f.failed(err, "restoring archive %q", id)
		}
		staged := f.path(dir + "/" + unpackedName + "/" + file.Path)
		if err := copyStaged(file.Staged, staged); err != nil {
			return f.failed(err, "copying %q to %q", file.Path, f.folder.dir)
		}
		file.Staged = staged
	}
	marker := f.path(dir + "/" + homeName + "/" + f.database)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return f.failed(err, "making the staging folder in %q", f.folder.dir)
	}
	f.unpacked.Database = marker
	return f.prepare()
}

func copyStaged(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// replacesNothing refuses to replace files unless that was asked for.
func (f *filesPart) replacesNothing() error {
	if f.Overwrite {
		return nil
	}
	var replaced []string
	for _, m := range f.journal.Moves {
		if m.Kept != "" {
			replaced = append(replaced, m.Path)
		}
	}
	if len(replaced) == 0 {
		return nil
	}
	what := fmt.Sprintf("%q", replaced[0])
	if len(replaced) > 1 {
		what += fmt.Sprintf(" and %d more", len(replaced)-1)
	}
	return problem.New(problem.Usage, "the folder %q has files that the archive has, too: %s", f.folder.dir, what).
		WithHint("give another folder with --files-to, or add --overwrite: what stands there is kept beside the new")
}

// undo takes the files back and returns why.
func (p *placedFiles) undo(why error) error {
	if p == nil || p.filesPart == nil {
		return why
	}
	defer p.folder.close()
	if p.journal == nil {
		p.unmakeFolder()
		return why
	}
	err := p.apply.undo(why)
	p.unmakeFolder()
	return err
}

// complete makes the files stay. What cannot be cleaned now the next run cleans.
func (p *placedFiles) complete(r *PostgresReport) {
	if p == nil {
		return
	}
	defer p.folder.close()
	marker, _ := p.journal.database()
	err := p.place(marker)
	if err == nil {
		err = p.clean(stagingPrefix + string(p.Sidecar.ID))
	}
	if err == nil {
		err = p.remove(marker.Path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the staging folder in %q could not be removed, the next restore does it: %v", p.folder.dir, err))
	}
	for _, m := range p.journal.Moves[:len(p.journal.Moves)-1] {
		if m.Path == "config" {
			continue
		}
		r.Files++
		if m.Kept != "" {
			r.FilesReplaced++
		}
	}
	if p.keptFolder != "" {
		r.SafetyFolder = p.path(p.keptFolder)
	}
	r.Warnings = append(r.Warnings, p.report.Warnings...)
	r.Recovery = p.recovered
}
