package rotate

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Identity is how a database is known again: n8ndb.Anchors, each as HMAC-SHA-256 under
// a key derived from the journal key, cut to 16 bytes, in hex. A copy has the same one.
type Identity struct {
	Instance    string   `json:"instance,omitempty"`
	Users       []string `json:"users,omitempty"`
	Credentials []string `json:"credentials,omitempty"`
}

func (k *journalKey) identify(a n8ndb.Anchors) Identity {
	mac := func(kind, text string) string {
		h := hmac.New(sha256.New, k.digest)
		h.Write([]byte("identity\x00" + kind + "\x00" + text))
		return hex.EncodeToString(h.Sum(nil)[:16])
	}
	var id Identity
	if a.InstanceID != "" {
		id.Instance = mac("instance", a.InstanceID)
	}
	for _, u := range a.Users {
		id.Users = append(id.Users, mac("user", u))
	}
	for _, c := range a.Credentials {
		id.Credentials = append(id.Credentials, mac("credential", c))
	}
	return id
}

// same reports whether a database that is now b can have been a. Users and credentials
// come and go, but not all of the oldest at once.
func (a Identity) same(b Identity) bool {
	if a.Instance != "" && a.Instance != b.Instance {
		return false
	}
	common := func(x, y []string) bool {
		return slices.ContainsFunc(x, func(id string) bool { return slices.Contains(y, id) })
	}
	switch {
	case len(a.Users) > 0: // random in every version
		return common(a.Users, b.Users)
	case len(a.Credentials) > 0:
		return common(a.Credentials, b.Credentials)
	}
	return true
}

// firstLook is what has to be known of the live database before there is a journal.
type firstLook struct {
	anchors n8ndb.Anchors
	new     int64 // values under the new key
}

func (e *engine) lookFirst(ctx context.Context) (first firstLook, err error) {
	db, err := e.cfg.Read(ctx)
	if err != nil {
		return first, err
	}
	first.anchors, err = db.Anchors(ctx)
	if p := e.cfg.Plan; p != nil {
		first.new = p.stored
	} else if err == nil {
		var t tally
		t, err = e.count(ctx, db, e.cfg.Choices.Executions)
		first.new = t.new
	}
	return first, errors.Join(err, db.Close())
}

// recognise refuses a database that is not the rotation's.
func (e *engine) recognise(ctx context.Context, db *n8ndb.DB) error {
	if e.j.Identity == nil {
		return nil
	}
	anchors, err := db.Anchors(ctx)
	if err != nil {
		return err
	}
	if !e.j.Identity.same(e.key.identify(anchors)) {
		return problem.New(problem.Usage, "this is another database than that of rotation %q, which is %s", e.j.ID, e.j.Database).
			WithHint("nothing was touched; without --database and --n8n-dir the journal itself leads to its database")
	}
	return nil
}

// read opens the live database for reading.
func (e *engine) read(ctx context.Context) (*n8ndb.DB, error) {
	db, err := e.cfg.Read(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.recognise(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// opened is how many values of the proof opened.
func opened(places map[n8ndb.PlaceID]PlaceProof) (n int64) {
	for _, p := range places {
		n += p.Opened
	}
	return n
}

// notEmpty refuses a database in which nothing is left to be proved.
func (e *engine) notEmpty(seen *proof) error {
	had := opened(e.j.Places)
	if had == 0 || opened(seen.sums()) > 0 {
		return nil
	}
	return problem.New(problem.CheckFailed, "the rotation has seen %d values open, and this database has none", had).
		WithHint("see whether it is the one that n8n uses")
}
