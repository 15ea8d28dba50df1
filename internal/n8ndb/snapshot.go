package n8ndb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// SnapshotConfig says what to copy where.
type SnapshotConfig struct {
	// Source is the database n8n uses, and may be using at this moment.
	Source string
	// Dest is the file to make, mode 0600. It must not exist, its folder must,
	// and should be private: for a database that a crash left behind, a second
	// copy of it lives there for a moment.
	Dest string
	// TablePrefix is n8n's DB_TABLE_PREFIX. Only a limited History looks at it.
	TablePrefix string
	// History is how much to take along; the zero value is everything.
	History History
	// DropWaiting leaves out the executions that n8n has not finished, too. It
	// counts only with a limited History.
	DropWaiting bool
	// Now is the clock that History counts back from; nil is time.Now.
	Now func() time.Time
	// Progress, if set, is called with bytes done and in total, at least at the
	// begin and at the end, always from the calling goroutine.
	Progress func(done, total int64)
}

// SnapshotReport says what a snapshot is.
type SnapshotReport struct {
	// Bytes is the size of Dest.
	Bytes int64
	// JournalMode of the source: "wal" (n8n 2.x) or "delete" (n8n 1.x), which
	// stands for all rollback-journal modes.
	JournalMode string
	// BlockedWriter says that n8n's commits, if it was running, had to wait
	// while the copy was made: the source has a rollback journal.
	BlockedWriter bool
	// Duration is how long it took.
	Duration time.Duration
	// DroppedExecutions is the number of executions that History left out.
	DroppedExecutions int64
}

// snapAttempts bounds how often a snapshot is begun anew because somebody
// opened a database that nobody had open before.
const snapAttempts = 3

// errSnapChanged says that the source was changed in a way that the reading
// did not protect against; what was read is worthless.
var errSnapChanged = errors.New("it was changed while it was being copied")

// Snapshot makes a consistent copy of an n8n SQLite database as of one moment,
// the content of a write-ahead log included, while n8n goes on writing. With a
// History of "all" the copy is page by page the same; otherwise it is a new
// database with the same schema and the rows that are to be kept.
//
// Dest is complete when Snapshot returns nil, and is not there after an error. It
// is not synced: it is for the run that made it, and worth nothing after a crash. The source is only read, and its folder is left as it was found.
// Cancelling ctx takes effect between phases: the copying of pages is one step.
func Snapshot(ctx context.Context, cfg SnapshotConfig) (SnapshotReport, error) {
	began := time.Now()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int64, int64) {}
	}
	for attempt := 1; ; attempt++ {
		report, err := snapOnce(ctx, cfg)
		switch {
		case err == nil:
			report.Duration = time.Since(began)
			return report, nil
		case errors.Is(err, errSnapChanged) && attempt < snapAttempts:
			continue
		}
		return SnapshotReport{}, snapProblem(ctx, err, "copying database %q", cfg.Source)
	}
}

func snapOnce(ctx context.Context, cfg SnapshotConfig) (_ SnapshotReport, err error) {
	if err := ctx.Err(); err != nil {
		return SnapshotReport{}, err
	}
	if err := snapCreate(cfg.Dest); err != nil {
		return SnapshotReport{}, err
	}
	defer func() {
		if err != nil {
			os.Remove(cfg.Dest)
		}
	}()
	src, err := snapOpen(ctx, cfg.Source, filepath.Dir(cfg.Dest))
	if err != nil {
		return SnapshotReport{}, err
	}
	defer src.close()
	report := SnapshotReport{JournalMode: src.journalMode(), BlockedWriter: !src.wal}
	if cfg.History.All() {
		err = snapPages(ctx, cfg, src)
	} else {
		report.DroppedExecutions, err = snapRebuild(ctx, cfg, src)
	}
	if err != nil {
		return report, err
	}
	if err := src.finish(); err != nil {
		return report, err
	}
	info, err := os.Stat(cfg.Dest)
	if err != nil {
		return report, err
	}
	report.Bytes = info.Size()
	return report, ctx.Err()
}

// snapCreate makes the empty file with its mode, so that no plaintext is ever
// in a file that others can read; SQLite takes an empty file for a new database.
func snapCreate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return problem.New(problem.Usage, "making snapshot %q: the file exists", path)
	}
	if err != nil {
		return fmt.Errorf("making snapshot %q: %w", path, snapCause(err))
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		os.Remove(path)
		return fmt.Errorf("making snapshot %q: %w", path, snapCause(err))
	}
	failpoint.Hit("snapshot.created")
	return nil
}

// snapPages copies all pages in one step. In steps of some pages SQLite starts
// again whenever another process commits in between, and beside an n8n that
// writes it never comes to an end.
func snapPages(ctx context.Context, cfg SnapshotConfig, src *snapSource) error {
	cfg.Progress(0, src.size)
	// The read transaction is begun first: that waits for a writer in the middle
	// of its commit, which a step of the backup would report as an error.
	if _, err := src.conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	defer src.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	var tables int
	if err := src.conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	var total int64
	err := src.conn.Raw(func(raw any) error {
		conn, ok := raw.(interface {
			NewBackup(dest string) (*sqlite.Backup, error)
		})
		if !ok {
			return errors.New("the SQLite driver has no online backup")
		}
		// Without a journal and without syncs: a copy that is not complete is
		// removed, and none outlives its run.
		backup, err := conn.NewBackup(snapURI(cfg.Dest, "mode=rw&_pragma=journal_mode(off)&_pragma=synchronous(off)"))
		if err != nil {
			return err
		}
		more, err := backup.Step(-1)
		total = int64(backup.PageCount())
		if closing := backup.Finish(); err == nil {
			err = closing
		}
		if err == nil && more {
			err = errors.New("the online backup ended before the last page")
		}
		return err
	})
	if err != nil {
		return err
	}
	failpoint.Hit("snapshot.copied")
	info, err := os.Stat(cfg.Dest)
	if err != nil {
		return err
	}
	if total == 0 || info.Size()%total != 0 {
		return fmt.Errorf("the copy has %d bytes in %d pages", info.Size(), total)
	}
	cfg.Progress(info.Size(), info.Size())
	return nil
}

// snapRows calls scan for each row of a query whose result is small.
func snapRows(ctx context.Context, conn *sql.Conn, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := conn.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
