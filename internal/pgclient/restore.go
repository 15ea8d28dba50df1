package pgclient

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
)

// RestoreConfig says which archive goes where.
type RestoreConfig struct {
	Programs
	DSN      string   // of the database to fill, which exists
	File     string   // the archive; several workers read it at once, so it is a file
	Sections []string // of pre-data, data, post-data; none: all
	Jobs     int      // workers; 0: 2
	AppName  string
	// Schemas that the database has already; public always counts as one of them.
	Schemas []string
}

// Restore loads the archive, or some sections of it, without owners and grants:
// everything belongs to the role that restores. It stops at the first failing
// statement; the error names it, and the database is then in an unknown state. The
// warnings are pg_restore's.
//
// Left out are the creation of schemas that exist and comments on extensions, which
// only the extension's owner may set.
func Restore(ctx context.Context, cfg RestoreConfig) (warnings []string, err error) {
	const doing = "restoring the database"
	c, err := connect(cfg.DSN, cfg.AppName)
	if err != nil {
		return nil, err
	}
	var contents bytes.Buffer
	list := &process{program: cfg.Restore, args: []string{"--list", "--", cfg.File}, out: &contents}
	o, err := list.run(ctx)
	if err := explain(ctx, doing, list, o, err); err != nil {
		return nil, err
	}
	jobs := cfg.Jobs
	if jobs == 0 {
		jobs = 2
	}
	args := []string{"--dbname=" + c.conninfo, "--exit-on-error", "--no-owner", "--no-acl", "--no-tablespaces", "--no-password",
		"--use-list=/dev/stdin", "--jobs=" + strconv.Itoa(jobs)}
	for _, s := range cfg.Sections {
		args = append(args, "--section="+s)
	}
	p := &process{program: cfg.Restore, args: append(args, "--", cfg.File), env: c.env, hide: c.password,
		in: strings.NewReader(wanted(contents.String(), append(slices.Clone(cfg.Schemas), "public")))}
	if o, err = p.run(ctx); err == nil {
		warnings = read(o.stderr).warnings
	}
	return warnings, explain(ctx, doing, p, o, err)
}

// wanted is the table of contents, as "pg_restore --list" prints it, without what must
// not be done.
func wanted(contents string, schemas []string) string {
	var b strings.Builder
	for line := range strings.Lines(contents) {
		if !unwanted(line, schemas) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func unwanted(line string, schemas []string) bool {
	// 215; 1259 16386 TABLE public credentials_entity n8n
	parts := strings.SplitN(line, " ", 4)
	if len(parts) < 4 || strings.HasPrefix(line, ";") {
		return false
	}
	what := parts[3]
	if strings.HasPrefix(what, "COMMENT - EXTENSION ") {
		return true
	}
	return slices.ContainsFunc(schemas, func(s string) bool {
		return strings.HasPrefix(what, "SCHEMA - "+s+" ") || strings.HasPrefix(what, "COMMENT - SCHEMA "+s+" ") ||
			strings.HasPrefix(what, "COMMENT - SCHEMA \""+strings.ReplaceAll(s, `"`, `""`)+"\" ")
	})
}

// Script writes the archive to out as plain SQL, which package pgcopy reads.
func Script(ctx context.Context, programs Programs, file string, out io.Writer) error {
	return script(ctx, &process{program: programs.Restore, args: []string{"--file=-", "--no-owner", "--no-acl", "--", file}, out: out})
}

// ScriptFrom is Script for an archive that is a stream, as [Dump] writes it.
func ScriptFrom(ctx context.Context, programs Programs, in io.Reader, out io.Writer) error {
	return script(ctx, &process{program: programs.Restore, args: []string{"--format=custom", "--file=-", "--no-owner", "--no-acl"}, in: in, out: out})
}

func script(ctx context.Context, p *process) error {
	o, err := p.run(ctx)
	return explain(ctx, "reading the dump", p, o, err)
}
