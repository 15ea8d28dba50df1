package n8ndb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/health"
	"github.com/n8keep/n8keep/internal/problem"
)

// HoldConfig says how to find out whether n8n is stopped.
type HoldConfig struct {
	// HealthURL is n8n's address, or that of its /healthz, optional. What an answer
	// means is for package health to say.
	HealthURL string
	// AssumeStopped goes on where something could not be checked. What was found
	// still refuses.
	AssumeStopped bool
	// Proc is where the proc file system is; empty is /proc.
	Proc string
	// HTTP asks HealthURL; nil is a client that waits for two seconds.
	HTTP *http.Client
}

// Held is a database that nobody else can read or write. It is not safe for
// concurrent use.
type Held struct {
	// Unchecked says in plain sentences what could not be checked, empty when
	// everything was. AssumeStopped was set, or it does not matter for this database.
	Unchecked []string

	path string // without symbolic links
	cfg  HoldConfig
	lock *holdLock
}

// holdSuffixes are the files that belong to a database.
func holdSuffixes() []string { return []string{"", "-wal", "-shm", "-journal"} }

// Hold makes sure that no process has the database open and keeps everybody out
// until Release. Attached is an error of kind Busy that names the processes; when
// something could not be checked that would have to be, the error is of kind
// Usage and names the flag --assume-stopped. Nothing is changed, neither when it
// refuses nor when the Held is released at once.
//
// Three things are looked at, because none sees everything. A connection in WAL
// mode holds a shared lock from its first read to its close, so the exclusive
// lock tells, and it tells across containers and users. In rollback-journal mode
// an idle connection holds no lock: there the open files of all processes in
// /proc tell. A health URL tells of an n8n on another machine.
//
// BEGIN EXCLUSIVE would be granted beside an idle n8n of either mode. The lock
// taken here is the one SQLite calls EXCLUSIVE, taken without SQLite: closing the
// last connection of SQLite's own would move the log into the database, and a
// refusal must not change anything.
func Hold(ctx context.Context, path string, cfg HoldConfig) (*Held, error) {
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: 2 * time.Second}
	}
	if _, err := readHeader(path); err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "holding database %q", path)
	}
	h := &Held{path: real, cfg: cfg}
	unchecked, err := h.askHealth(ctx)
	if err != nil {
		return nil, err
	}
	if h.lock, err = h.take(unchecked, false); err != nil {
		return nil, err
	}
	return h, nil
}

// take looks for open files, takes the lock, and looks again: who opened the
// database between the first look and the lock has no lock to be seen, and who
// comes later cannot read a single page. again is for a database that was held a
// moment before: what could not be checked then is no reason now.
func (h *Held) take(unchecked []string, again bool) (_ *holdLock, err error) {
	head, err := readHeader(h.path)
	if err != nil {
		return nil, err
	}
	if err := h.refuseOpeners(nil); err != nil {
		return nil, err
	}
	lock, conflict, err := holdTakeLock(h.path)
	switch {
	case err != nil:
		e := problem.Wrap(problem.Unexpected, snapCause(err), "locking database %q", h.path)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			e.Kind = problem.Usage
			e.WithHint("run as the user that runs n8n, or as root")
		}
		return nil, e
	case conflict != nil:
		// Looking once more may name a process that has just come.
		if err := h.refuseOpeners(nil); err != nil {
			return nil, err
		}
		return nil, h.busy("a process that cannot be seen from here (another user, container or machine)", conflict)
	}
	defer func() {
		if err != nil {
			lock.release()
		}
	}()
	var gaps []string
	if err := h.refuseOpeners(&gaps); err != nil {
		return nil, err
	}
	wal := head.wal()
	if _, err := os.Stat(h.path + "-wal"); err == nil {
		wal = true
	}
	remote := holdFileSystem(h.path)
	if remote != "" {
		gaps = append(gaps, remote)
	}
	if lock.gap != "" {
		gaps = append(gaps, lock.gap)
	}
	if !again {
		h.Unchecked = append(slices.Clone(unchecked), gaps...)
	}
	// In WAL mode the lock alone is proof, where locks reach everybody.
	needed := gaps
	if wal {
		needed = nil
		for _, gap := range []string{remote, lock.gap} {
			if gap != "" {
				needed = append(needed, gap)
			}
		}
	}
	needed = append(needed, unchecked...)
	if len(needed) > 0 && !h.cfg.AssumeStopped && !again {
		return nil, problem.New(problem.Usage, "it is not certain that n8n is stopped: %s", strings.Join(needed, "; ")).
			WithHint("run as root on the machine that runs n8n, or, once you have stopped n8n and all its workers, add --assume-stopped")
	}
	return lock, nil
}

func (h *Held) busy(who string, cause error) error {
	e := problem.New(problem.Busy, "database %q is in use by %s", h.path, who).
		WithHint("stop n8n, its workers and every other program that uses the database, and try again")
	e.Err = cause
	return e
}

// refuseOpeners is Busy when a process has one of the database's files open. What
// could not be looked at is appended to gaps.
func (h *Held) refuseOpeners(gaps *[]string) error {
	openers, unseen, err := holdOpeners(h.cfg.Proc, h.path)
	// A child that this process is starting has a copy of every descriptor of
	// ours, until it runs its program a moment later.
	for range 200 {
		if err != nil || !slices.ContainsFunc(openers, func(o holdOpener) bool { return o.starting }) {
			break
		}
		time.Sleep(5 * time.Millisecond)
		openers, unseen, err = holdOpeners(h.cfg.Proc, h.path)
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, snapCause(err), "looking for users of database %q", h.path)
	}
	if gaps != nil {
		*gaps = append(*gaps, unseen...)
	}
	if len(openers) == 0 {
		return nil
	}
	var names []string
	for i, o := range openers {
		if i == 5 {
			names = append(names, fmt.Sprintf("%d more", len(openers)-i))
			break
		}
		names = append(names, o.String())
	}
	return h.busy(strings.Join(names, ", "), nil)
}

// askHealth returns Busy when n8n answers, and a sentence when it is unclear
// whether there is somebody who could.
func (h *Held) askHealth(ctx context.Context) ([]string, error) {
	if h.cfg.HealthURL == "" {
		return nil, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.cfg.HealthURL, nil)
	if err != nil || request.URL.Host == "" {
		return nil, problem.New(problem.Usage, "health URL %q is not a URL", holdRedacted(h.cfg.HealthURL)).
			WithHint(`it looks like "http://localhost:5678/healthz"`)
	}
	request.URL = health.Alive(request.URL)
	status := 0
	response, err := h.cfg.HTTP.Do(request)
	if err == nil {
		status = response.StatusCode
		response.Body.Close()
	}
	switch verdict := health.Judge(status, err); {
	case ctx.Err() != nil:
		return nil, problem.Wrap(problem.Interrupted, ctx.Err(), "asking n8n at %s", request.URL.Redacted())
	case verdict == health.Silent:
		return nil, nil // stopped
	case verdict == health.Answers && err != nil:
		return nil, problem.New(problem.Busy, "somebody listens at %s, and the TLS connection fails", request.URL.Redacted()).
			WithHint("stop n8n and all its workers, and try again; if it is not n8n that listens there, give --health-url the address of n8n itself")
	case verdict == health.Answers:
		return nil, problem.New(problem.Busy, "n8n answers at %s", request.URL.Redacted()).
			WithHint("stop n8n and all its workers, and try again")
	}
	return []string{fmt.Sprintf("n8n at %s could not be asked", request.URL.Redacted())}, nil
}

// holdRedacted leaves the password out, also of what cannot be parsed.
func holdRedacted(text string) string {
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		return u.Redacted()
	}
	if i := strings.LastIndex(text, "@"); i >= 0 {
		return "xxxxx" + text[i:]
	}
	return text
}

// FinishWAL brings the whole database into its one file: a write-ahead log that
// n8n left, which is usual even after a clean stop, is moved into it, the
// transaction that a crash cut off is rolled back, and the journal mode becomes
// DELETE. When it returns nil there is no -wal, -shm and -journal any more, so that
// a file renamed to the database's name cannot be read together with an older log,
// and the database is still held. n8n turns WAL mode on again by itself.
//
// After an error the database holds what it held, and may not be held any more:
// call Release, or Retake to go on without a finished log.
func (h *Held) FinishWAL(ctx context.Context) error {
	if h.lock == nil {
		return problem.New(problem.Unexpected, "finishing the log of database %q: it is not held", h.path)
	}
	// SQLite must have the lock itself. If somebody takes it in the gap, SQLite's
	// or our next attempt fails, and the files are looked at afterwards.
	h.lock.release()
	h.lock = nil
	failpoint.Hit("hold.finish-wal")
	if err := holdFold(ctx, h.path); err != nil {
		return snapProblem(ctx, err, "finishing the log of database %q", h.path)
	}
	failpoint.Hit("hold.finished-wal")
	lock, err := h.take(nil, true)
	if err != nil {
		return err
	}
	h.lock = lock
	for _, suffix := range holdSuffixes()[1:] {
		if _, err := os.Lstat(h.path + suffix); !errors.Is(err, fs.ErrNotExist) {
			return problem.New(problem.Busy, "finishing the log of database %q: there is still a %s file", h.path, suffix).
				WithHint("another program has opened the database; stop it and try again")
		}
	}
	head, err := readHeader(h.path)
	if err != nil {
		return err
	}
	if head.wal() {
		return problem.New(problem.Busy, "finishing the log of database %q: it is in WAL mode again", h.path).
			WithHint("another program has opened the database; stop it and try again")
	}
	return nil
}

// Retake holds the database again after FinishWAL has failed; nil when it still
// is held. Busy means that somebody came in between.
func (h *Held) Retake() error {
	if h.lock != nil {
		return nil
	}
	lock, err := h.take(nil, true)
	if err != nil {
		return err
	}
	h.lock = lock
	return nil
}

// holdFold opens the database alone and lets SQLite recover and fold it. In
// exclusive locking mode SQLite takes the lock for good with the first access and
// needs no -shm.
func holdFold(ctx context.Context, path string) (err error) {
	pool, err := snapPool(snapURI(path, "mode=rw&_pragma=busy_timeout(1000)&_pragma=synchronous(full)"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close()) }()
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, stmt := range []string{"PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "COMMIT"} {
		if _, err := conn.ExecContext(ctx, stmt); err != nil {
			return err
		}
	}
	var busy, frames, moved int
	if err := conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return problem.New(problem.Busy, "finishing the log of database %q: somebody reads it", path)
	}
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = DELETE").Scan(&mode); err != nil {
		return err
	}
	if mode != "delete" {
		return problem.New(problem.Busy, "finishing the log of database %q: the journal mode stays %q", path, mode)
	}
	return nil
}

// Release lets others at the database again. It may be called more than once.
func (h *Held) Release() error {
	if h.lock == nil {
		return nil
	}
	lock := h.lock
	h.lock = nil
	return lock.release()
}
