package pgclient

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// DumpConfig says what is dumped, and as of when.
type DumpConfig struct {
	Programs
	DSN      string // URL or name=value list; may hold the password
	Snapshot string // of pg_export_snapshot, whose transaction stays open; "": one of its own
	AppName  string // application_name of its session

	// Schema "" is public. All of it is dumped, but with a TablePrefix only those of its tables, sequences and views
	// that begin with it; functions and types, which have no prefix, come all.
	Schema, TablePrefix string
	Extensions          []string // by name; a schema alone leaves out the extensions it needs
	WholeDatabase       bool     // instead of Schema, TablePrefix and Extensions: all there is
	ExcludeData         []string // full names of tables in Schema whose rows stay out

	LockTimeout time.Duration // how long to wait for another session's lock on a table; 0: for ever
	Out         io.Writer
	Logger      *slog.Logger // gets pg_dump's warnings; optional
}

// Dump writes the database to cfg.Out as an uncompressed archive in pg_dump's custom
// format. When ctx ends, pg_dump ends and the error is ctx's cause. What Out got is
// worth nothing after an error.
func Dump(ctx context.Context, cfg DumpConfig) error {
	const doing = "dumping the database"
	c, err := connect(cfg.DSN, cfg.AppName)
	if err != nil {
		return err
	}
	args, err := cfg.arguments()
	if err != nil {
		return err
	}
	p := &process{program: cfg.Dump, args: append(args, "--dbname="+c.conninfo), env: c.env, out: cfg.Out, hide: c.password}
	o, err := p.run(ctx)
	if err := explain(ctx, doing, p, o, err); err != nil {
		return err
	}
	for _, w := range read(o.stderr).warnings {
		logger(cfg.Logger).WarnContext(ctx, "pg_dump warns", "message", w)
	}
	return nil
}

func (cfg DumpConfig) arguments() ([]string, error) {
	// Values are in UTF-8 whatever the database has: who reads the archive need not know.
	args := []string{"--format=custom", "--compress=0", "--encoding=UTF8", "--no-password", "--no-sync"}
	if cfg.Snapshot != "" {
		args = append(args, "--snapshot="+cfg.Snapshot)
	}
	if cfg.LockTimeout > 0 {
		args = append(args, "--lock-wait-timeout="+strconv.FormatInt(max(1, cfg.LockTimeout.Milliseconds()), 10))
	}
	schema := cfg.Schema
	if schema == "" {
		schema = "public"
	}
	if !cfg.WholeDatabase {
		args = append(args, "--strict-names", "--schema="+quotePattern(schema))
		if cfg.TablePrefix != "" {
			others, err := exceptPrefix(cfg.TablePrefix)
			if err != nil {
				return nil, err
			}
			args = append(args, "--exclude-table="+quotePattern(schema)+"."+others)
		}
		for _, e := range cfg.Extensions {
			args = append(args, "--extension="+quotePattern(e))
		}
	}
	for _, t := range cfg.ExcludeData {
		args = append(args, "--exclude-table-data="+quotePattern(schema)+"."+quotePattern(t))
	}
	return args, nil
}

// quotePattern makes a pattern of pg_dump that matches this name alone.
func quotePattern(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// exceptPrefix makes a pattern that matches every name that does not begin with the
// prefix. Patterns are regular expressions in which * and ? mean what they mean in
// file names, so there is no "not followed by": it lists where a name may differ first.
// Only what stands outside quotes has these meanings, and there capitals would be
// folded, hence the numbers.
func exceptPrefix(prefix string) (string, error) {
	var b strings.Builder
	b.WriteByte('(')
	before := ""
	for i, r := range prefix {
		if r > 0xFFFF || r < ' ' {
			return "", problem.New(problem.Usage, "the table prefix %q has a character that pg_dump's patterns cannot express", prefix).
				WithHint("take --engine native")
		}
		if i > 0 {
			fmt.Fprintf(&b, "|%s|%s", before, before)
		}
		fmt.Fprintf(&b, `[^\u%04x]*`, r)
		before = quotePattern(prefix[:i] + string(r))
	}
	b.WriteByte(')')
	return b.String(), nil
}
