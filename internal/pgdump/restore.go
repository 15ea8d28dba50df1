package pgdump

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/internal/problem"
)

// RestoreConfig says what to restore, and where. DSN and Dir are required.
type RestoreConfig struct {
	DSN      string // a database that holds nothing of what is restored; may hold the password
	Dir      string // folder with the files of a dump; for Load: with data files
	AppName  string // application_name of every session; "": n8keep
	Jobs     int    // sessions that load rows and make indexes; 0: 2
	Sections []string
	Progress func(done, total int64) // bytes of data files. Optional, calls do not overlap
	Logger   *slog.Logger            // gets the server's warnings, such as grants to roles that are missing. Optional
}

// The sections of a dump, in order; a RestoreConfig without any means all.
const (
	PreData  = "pre-data"
	Data     = "data"
	PostData = "post-data"
)

// Restore loads a dump without psql: what precedes the rows, the rows in parallel, then the rest, indexes of different
// tables in parallel. The first statement that fails ends it with an error that names its object; what is there
// then is of no use, and the caller drops the database. Neither ownership nor a superuser is needed.
func Restore(ctx context.Context, cfg RestoreConfig) error {
	cfg = cfg.withDefaults()
	sections := cfg.Sections
	if len(sections) == 0 {
		sections = []string{PreData, Data, PostData}
	}
	for _, s := range sections {
		if !slices.Contains([]string{PreData, Data, PostData}, s) {
			return problem.New(problem.Usage, "a dump has no section %q", s)
		}
	}
	if slices.Contains(sections, PreData) {
		if err := cfg.script(ctx, "pre.sql"); err != nil {
			return err
		}
	}
	if slices.Contains(sections, Data) {
		if err := cfg.load(ctx, filepath.Join(cfg.Dir, "data")); err != nil {
			return err
		}
	}
	if slices.Contains(sections, PostData) {
		return cfg.script(ctx, "post.sql")
	}
	return nil
}

// Load loads the data files of cfg.Dir (of CopyRows, or the folder data of a dump) into tables that are there already.
func Load(ctx context.Context, cfg RestoreConfig) error {
	return cfg.withDefaults().load(ctx, cfg.Dir)
}

func (cfg RestoreConfig) withDefaults() RestoreConfig {
	cfg.Jobs = max(cmp.Or(cfg.Jobs, 2), 1)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return cfg
}

func (cfg RestoreConfig) connect(ctx context.Context) (*pgx.Conn, error) {
	return connect(ctx, cfg.DSN, cfg.AppName, func(warning string) { cfg.Logger.Warn("server warns while restoring", "message", warning) })
}

// batch is how many statements go into one transaction: each commit waits for the disk.
const batch = 100

// script runs a script of a dump.
func (cfg RestoreConfig) script(ctx context.Context, name string) error {
	f, err := os.Open(filepath.Join(cfg.Dir, name))
	if err != nil {
		return fmt.Errorf("opening a script: %w", err)
	}
	all, err := readScript(name, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	conn, err := cfg.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for len(all) > 0 {
		n := slices.IndexFunc(all, func(s statement) bool { return (s.Index != "") != (all[0].Index != "") })
		if n < 0 {
			n = len(all)
		}
		if all[0].Index != "" {
			err = cfg.indexes(ctx, all[:n])
		} else {
			n = min(n, batch)
			err = runTogether(ctx, conn, all[:n])
		}
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// runTogether runs statements in one transaction.
func runTogether(ctx context.Context, conn *pgx.Conn, all []statement) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	for _, s := range all {
		if err := run(ctx, conn, s); err != nil {
			return errors.Join(err, tx.Rollback(context.WithoutCancel(ctx)))
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("committing what was restored: %w", err)
	}
	return nil
}

func run(ctx context.Context, conn *pgx.Conn, s statement) error {
	// The simple protocol: a body of BEGIN ATOMIC holds semicolons, and nothing is to be prepared.
	if _, err := conn.PgConn().Exec(ctx, s.sql).ReadAll(); err != nil {
		return fmt.Errorf("restoring %s: %w", s.Label, err)
	}
	return nil
}

// indexes makes indexes, those of one table in one session.
func (cfg RestoreConfig) indexes(ctx context.Context, all []statement) error {
	byTable := map[string][]statement{}
	var tables []string
	for _, s := range all {
		if byTable[s.Index] == nil {
			tables = append(tables, s.Index)
		}
		byTable[s.Index] = append(byTable[s.Index], s)
	}
	return cfg.parallel(ctx, len(tables), func(ctx context.Context, conn *pgx.Conn, i int) error {
		return runTogether(ctx, conn, byTable[tables[i]])
	})
}

// parallel calls do for 0 to n-1, in cfg.Jobs sessions.
func (cfg RestoreConfig) parallel(ctx context.Context, n int, do func(ctx context.Context, conn *pgx.Conn, i int) error) error {
	work := make(chan int)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		for i := range n {
			select {
			case work <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(cfg.Jobs, n) {
		g.Go(func() error {
			conn, err := cfg.connect(ctx)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for i := range work {
				if err := do(ctx, conn, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// load loads every data file of dir.
func (cfg RestoreConfig) load(ctx context.Context, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.sql"))
	if err != nil {
		return fmt.Errorf("looking for data files: %w", err)
	}
	var total int64
	sizes := make([]int64, len(files))
	for i, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return fmt.Errorf("looking at data files: %w", err)
		}
		sizes[i] = info.Size()
		total += info.Size()
	}
	meter := make(chan int64, 1)
	meter <- 0
	return cfg.parallel(ctx, len(files), func(ctx context.Context, conn *pgx.Conn, i int) error {
		if err := loadFile(ctx, conn, files[i], sizes[i]); err != nil {
			return err
		}
		done := <-meter + sizes[i]
		if cfg.Progress != nil {
			cfg.Progress(done, total)
		}
		meter <- done
		return nil
	})
}

var copyStatement = regexp.MustCompile(`^COPY ("(?:[^"]|"")+"\.)"(?:[^"]|"")+"(?: \((?:[^"]|"(?:[^"]|"")+")+\))? FROM stdin;\n$`)

// loadFile sends the rows of one data file to the server.
func loadFile(ctx context.Context, conn *pgx.Conn, path string, size int64) error {
	name := filepath.Base(path)
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening a data file: %w", err)
	}
	defer f.Close()
	tail := make([]byte, 4)
	if size > int64(len(tail)) {
		if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
			return fmt.Errorf("reading the end of %q: %w", name, err)
		}
	}
	if string(tail) != "\n\\.\n" {
		return problem.New(problem.Damaged, "data file %q is cut off", name)
	}
	in := bufio.NewReaderSize(io.LimitReader(f, size-3), 128<<10)
	head, err := readHead(in)
	if err != nil {
		return problem.New(problem.Damaged, "data file %q does not begin with COPY", name)
	}
	if _, err := conn.PgConn().CopyFrom(ctx, in, head[:len(head)-2]); err != nil {
		return fmt.Errorf("loading %q: %w", name, err)
	}
	return nil
}

// readHead reads the COPY statement of a data file: one line, unless an identifier holds line feeds.
func readHead(in *bufio.Reader) (string, error) {
	var head string
	for len(head) < 1<<20 {
		line, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		if head += line; copyStatement.MatchString(head) {
			return head, nil
		}
	}
	return "", errors.New("no end of the statement")
}
