// Package audit keeps the record of who did what with which instance: one line
// of JSON when a command begins and one when it ends, in a file that is only
// ever appended to.
//
// Every line carries its number, the hash of the line before it and a hash of
// itself, so a line that was changed, removed, added or moved is found by
// [Verify]. Lines are written by one process at a time (flock) and synced before
// [Log.Begin] returns. What a power loss leaves of a line is put aside in a file
// of its own and the chain goes on with a note that names it.
//
// A line, as version 1 writes it (member order and spelling never change; a
// reader of later versions reads these lines):
//
//	{"v":1,"seq":7,"time":"2026-08-01T02:00:00.000Z","run":"6f0c…","phase":"begin",
//	 "actor":"os:root","sudo_user":"alice","command":"restore","instance":"prod",
//	 "detail":{"archive":"20260801T…"},"prev":"<64 hex>","hash":"<64 hex>"}
//
// hash is SHA-256 over "n8keep audit v1\n" and the bytes of the line before
// `,"hash"`; prev is the hash of the line before, 64 zeros in the first.
//
// The package refuses to record secrets: a detail is a number, a truth value or
// a short identifier, and a text that looks like a key, a ciphertext or an
// address with a password is replaced by "[refused]". Of a failure only the kind
// is kept, never its text.
//
// Trust boundary: the chain shows changes to somebody who knows a later line. It
// does not stop a person who can write the file from cutting off its end, or from
// writing all of it anew.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// FileName is the name of the record in the state folder.
const FileName = "audit.jsonl"

// Policy says what happens to a command whose event cannot be recorded.
type Policy int

const (
	FailClosed Policy = iota // the command must not go on: restore, rotate, reveal
	WarnOnly                 // the command goes on and a warning is logged: backup, census
)

// Config is what a [Log] needs.
type Config struct {
	// Dir is the state folder; it is made (0700) when missing. Required.
	Dir string
	// Now is the clock. Optional; time.Now by default.
	Now func() time.Time
	// Logger gets the warnings of WarnOnly and the notes about repaired lines.
	// Optional; nothing is logged by default.
	Logger *slog.Logger
	// Env reads the environment, of which only SUDO_USER counts. Optional;
	// os.LookupEnv by default.
	Env func(string) (string, bool)
}

// Log appends to one record. Its methods may be called by several goroutines
// and by several processes at once. It holds no file open between calls.
type Log struct {
	dir      string
	path     string
	now      func() time.Time
	logger   *slog.Logger
	sudoUser string
}

// Open makes nothing yet: the folder and the record are made with the first event,
// so that a folder that cannot be written is met by Begin and its policy.
func Open(cfg Config) (*Log, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("opening the audit log: no state folder given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Env == nil {
		cfg.Env = os.LookupEnv
	}
	l := &Log{
		dir:    cfg.Dir,
		path:   filepath.Join(cfg.Dir, FileName),
		now:    cfg.Now,
		logger: cfg.Logger,
	}
	if u, ok := cfg.Env("SUDO_USER"); ok && u != "" {
		l.sudoUser = cleanName(u)
	}
	return l, nil
}

// Path is the file that the record is in.
func (l *Log) Path() string { return l.path }

// Event is what a command is about to do. Detail holds ids and counts only;
// see the package documentation for what is refused.
type Event struct {
	Command  string         // "backup create", as typed
	Instance string         // instance name, "" when there is none
	Detail   map[string]any // string, bool, integers, []string; optional
}

// Receipt proves that a command announced itself before it acted. Functions that
// open secrets demand a valid one. The zero value is not valid; only
// [Log.Begin] makes valid ones.
type Receipt struct {
	actor    Actor
	run      string
	event    Event
	policy   Policy
	recorded bool
}

// Valid reports whether the receipt came from Begin.
func (r Receipt) Valid() bool { return r.run != "" }

// Recorded reports whether the event stands in the record. It is false for a
// receipt that WarnOnly gave although writing failed.
func (r Receipt) Recorded() bool { return r.recorded }

// Actor is who acts.
func (r Receipt) Actor() Actor { return r.actor }

// Run is the random id, 16 hex digits, that the begin and the end line share.
func (r Receipt) Run() string { return r.run }

// Begin records that actor is about to do what e says; it returns once the line
// is on the disk. With FailClosed an error means that the command must not go on;
// with WarnOnly the failure is logged and the receipt is valid all the same.
func (l *Log) Begin(ctx context.Context, actor Actor, e Event, p Policy) (Receipt, error) {
	if actor == "" || e.Command == "" {
		return Receipt{}, fmt.Errorf("recording an audit event: actor and command are required")
	}
	var id [8]byte
	rand.Read(id[:])
	r := Receipt{actor: actor, run: hex.EncodeToString(id[:]), event: e, policy: p}
	err := l.append(ctx, record{
		Run: r.run, Phase: "begin", Actor: actor, Command: e.Command, Instance: e.Instance,
		Detail: l.clean(e.Detail),
	})
	switch {
	case err == nil:
		r.recorded = true
		return r, nil
	case ctx.Err() != nil:
		return Receipt{}, ctx.Err()
	case p == WarnOnly:
		l.logger.Warn("audit event not recorded", "command", e.Command, "error", err)
		return r, nil
	}
	return Receipt{}, err
}

// End records how the command ended: "ok" or the [problem.Kind] of outcome, and
// counts. It is not cut short by a cancelled command. With WarnOnly a failure is
// logged and nil returned; with FailClosed the caller reports it, although the
// command itself is over.
func (l *Log) End(r Receipt, outcome error, counts map[string]int64) error {
	if !r.Valid() {
		return fmt.Errorf("recording an audit event: the receipt is not valid")
	}
	detail := make(map[string]any, len(counts))
	for k, v := range counts {
		detail[k] = v
	}
	result := "ok"
	if outcome != nil {
		result = string(problem.KindOf(outcome))
	}
	err := l.append(context.Background(), record{
		Run: r.run, Phase: "end", Actor: r.actor, Command: r.event.Command, Instance: r.event.Instance,
		Outcome: result, Detail: detail,
	})
	if err != nil && r.policy == WarnOnly {
		l.logger.Warn("audit event not recorded", "command", r.event.Command, "error", err)
		return nil
	}
	return err
}
