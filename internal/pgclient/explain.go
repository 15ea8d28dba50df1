package pgclient

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
)

// report is what a program said on stderr, without what may quote rows.
type report struct {
	failed    string // the first error, in one line
	all       string // every error line, for looking into
	statement string // what the server refused
	warnings  []string
}

var (
	messages = regexp.MustCompile(`^(?:pg_dump|pg_restore|[^ :]+): (error|fatal|warning|detail|hint): (.*)$`)
	spaces   = regexp.MustCompile(`\s+`)
)

// read takes a program's stderr apart. An error goes on in the lines behind it until
// the server's DETAIL, HINT or CONTEXT.
func read(stderr string) (r report) {
	const nothing, failure, statement = 0, 1, 2
	going := nothing
	var failed, all, stmt []string
	for _, line := range strings.Split(stderr, "\n") {
		m := messages.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[1] == "error" || m[1] == "fatal":
			all = append(all, m[2])
			going = nothing
			if len(failed) == 0 {
				failed, going = []string{m[2]}, failure
			}
			continue
		case m[1] == "warning":
			going = nothing
			if strings.HasPrefix(m[2], "errors ignored") {
				all = append(all, m[2])
			}
			r.warnings = append(r.warnings, m[2])
			continue
		case m[1] == "detail" && strings.HasPrefix(m[2], "Query was: "):
			going = nothing
			if len(stmt) == 0 && len(failed) > 0 {
				stmt, going = []string{strings.TrimPrefix(m[2], "Query was: ")}, statement
			}
			continue
		case m[1] == "detail" && strings.HasPrefix(m[2], "Error message from server: "):
			text := strings.TrimPrefix(m[2], "Error message from server: ")
			failed, all, going = append(failed, text), append(all, text), failure
			continue
		default:
			going = nothing
			continue
		}
		switch text, isStatement := strings.CutPrefix(line, "Command was: "); {
		case isStatement:
			going = nothing
			if len(stmt) == 0 && len(failed) > 0 {
				stmt, going = []string{text}, statement
			}
		case strings.HasPrefix(line, "DETAIL:"), strings.HasPrefix(line, "HINT:"), strings.HasPrefix(line, "CONTEXT:"),
			strings.HasPrefix(line, "LINE "), strings.HasPrefix(line, "QUERY:"), strings.HasPrefix(line, "pg_dump: "), strings.HasPrefix(line, "pg_restore: "):
			going = nothing
		case going == failure:
			failed, all = append(failed, line), append(all, line)
		case going == statement:
			stmt = append(stmt, line)
		}
	}
	if len(failed) == 0 {
		failed = all
	}
	r.failed, r.all = oneLine(failed, 400), strings.Join(all, "\n")
	r.statement = oneLine(stmt, 200)
	return r
}

func oneLine(lines []string, limit int) string {
	s := strings.TrimSpace(spaces.ReplaceAllString(strings.Join(lines, " "), " "))
	if r := []rune(s); len(r) > limit {
		return string(r[:limit]) + "..."
	}
	return s
}

// explain makes the error of a run that did not succeed; nil if it did. doing is such
// as "dumping the database".
func explain(ctx context.Context, doing string, p *process, o outcome, err error) error {
	name := filepath.Base(p.program)
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return problem.Wrap(problem.Unexpected, err, "%s", doing)
	case o.outErr != nil:
		return fmt.Errorf("%s: writing the output of %s: %w", doing, name, o.outErr)
	case o.inErr != nil:
		return fmt.Errorf("%s: reading the input of %s: %w", doing, name, o.inErr)
	}
	r := read(o.stderr)
	if o.code == 0 && r.all == "" {
		return nil
	}
	if o.signal != "" && r.failed == "" {
		e := problem.New(problem.Unexpected, "%s: %s was ended by %s", doing, name, o.signal)
		if o.signal == "SIGKILL" {
			e.WithHint("somebody killed it; if it was the kernel for want of memory, its log (dmesg) says so")
		}
		return e
	}
	what := r.failed
	if what == "" {
		what = fmt.Sprintf("%s ended with exit code %d and no message", name, o.code)
	}
	if r.statement != "" {
		what += fmt.Sprintf(" (statement: %s)", r.statement)
	}
	kind, hint := classify(r.all, r.statement)
	e := problem.New(kind, "%s: %s", doing, what)
	if hint != "" {
		e.WithHint("%s", hint)
	}
	return e
}

// classify knows what PostgreSQL's messages mean for the user. Servers that speak
// another language are not understood, only quoted.
func classify(text, statement string) (problem.Kind, string) {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	connecting := has("connection to server", "could not connect", "connection to database")
	switch {
	case has("server version mismatch"):
		return problem.Usage, "install client programs as new as the server (package postgresql-client-NN with the server's number), or take --engine native"
	case has("unsupported version (", "unrecognized configuration parameter"):
		return problem.Usage, "the dump and this pg_restore or server are of different PostgreSQL releases: take a server at least as new as the one that was dumped, with its own pg_restore"
	case has("not appear to be a valid archive", "end of file", "corrupt tar", "found unexpected block ID", "could not uncompress", "could not read from input", "input file is too short", "did not find magic string"):
		return problem.Damaged, "the dump is damaged or cut off"
	case has("lock timeout"), has("statement timeout") && strings.Contains(statement, "LOCK TABLE"): // by which pg_dump limits the waiting
		return problem.Busy, "another session has locked a table, as an upgrade of n8n does: try again later"
	case has("conflict with recovery"):
		return problem.Busy, "the replica had to go on: raise max_standby_streaming_delay or set hot_standby_feedback there, or dump the primary"
	case has("invalid snapshot identifier", "could not import the requested snapshot") || has(`snapshot "`) && has("does not exist"):
		return problem.Unreachable, "the session that holds the snapshot has ended: run it again"
	case has("too many connections", "connection slots", "too many clients"):
		return problem.Busy, "the server has no connection left: end others, or raise max_connections"
	case has("server closed the connection", "terminating connection", "could not receive data from server", "no connection to the server", "connection has been closed", "SSL SYSCALL error", "shutting down", "the database system is"):
		return problem.Unreachable, "the server or the network ended the connection: run it again"
	case connecting && has("does not exist") && has(`database "`):
		return problem.NotFound, "check the database name, DB_POSTGRESDB_DATABASE in n8n"
	case has("authentication failed", "no password supplied", "pg_hba.conf") || connecting && has("role \""):
		return problem.Unreachable, "check user and password, and that the server's pg_hba.conf lets them in"
	case connecting && has("certificate", "SSL", "sslmode"):
		return problem.Unreachable, "check sslmode, sslrootcert, sslcert and sslkey of the address"
	case connecting || has("could not translate host name"):
		return problem.Unreachable, "check host, port and that the server accepts connections from here"
	case has("permission denied to create extension"):
		return problem.Unreachable, "let an administrator run CREATE EXTENSION in the new database first; then it is left as it is"
	case has("permission denied", "must be owner", "must be superuser"):
		return problem.Unreachable, "grant this user what is missing, or use the owner of n8n's tables"
	case has("no matching schemas", "no matching tables", "no matching extensions"):
		return problem.NotFound, "check schema and table prefix, DB_POSTGRESDB_SCHEMA and DB_TABLE_PREFIX in n8n"
	case has("No space left on device"):
		return problem.Unexpected, "a disk is full: the server's, if the message comes from it"
	case has("canceling statement due to user request"):
		return problem.Busy, "somebody cancelled it on the server: run it again"
	}
	return problem.Unexpected, ""
}
