// Package datakey lists, rotates and retires the data keys of an n8n (2.18 and later):
// the keys in its own database that it encrypts with while its rotation flag is on,
// and that the instance key wraps.
//
// A listing says how many values each key opens, which n8n does not show. A rotation
// goes through n8n's own endpoint where a session is given, else into the database
// with n8n's guarantee: exactly one key is active. Nothing is encrypted anew by it.
// A key is retired only when a census of everything, the data of finished executions
// and ciphertext outside the catalogue included, shows that no value needs it; it is a
// mark in n8keep's own state, and n8n's row stays, because n8n 3.0 forbids its removal
// and older backups need it.
//
// Refused is retiring the active key, one that a value still names, and one of which
// the proof would have a hole (data in S3 or Azure, values that cannot be read).
//
// Old data: before 2.18 there are no data keys; a listing is empty then.
//
// Trust boundary: as [n8ndb]. Results hold ids, times and counts, never keys.
package datakey

import (
	"cmp"
	"context"
	"time"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Marks remembers which keys are retired, by instance; [state.DB] does.
type Marks interface {
	RetiredDataKeys(ctx context.Context, instance string) (map[string]time.Time, error)
	RetireDataKey(ctx context.Context, instance, id string, at time.Time) error
}

// Config is what all functions need.
type Config struct {
	DB       *n8ndb.DB // for Rotate without N8N: that of Swapper
	Key      n8ncrypt.InstanceKey
	Receipt  audit.Receipt
	Instance string // under which marks are kept; see [n8ndb.DB] for where it comes from
	Marks    Marks  // optional for List and Rotate
	// Storage is n8n's storage folder, in which the data of some executions lies; "" is
	// none.
	Storage string
	// Executions is of which executions List reads the data; Retire reads all.
	Executions n8ndb.ExecutionScope
	Progress   func(table string, rows int64) // optional
	Now        func() time.Time               // nil: time.Now

	// Swapper writes; for Rotate without N8N.
	Swapper *n8ndb.Swapper
	// N8N makes a new key through n8n's own endpoint and returns its id; nil writes to
	// the database. See [n8napi.Session].
	N8N func(ctx context.Context) (id string, err error)
}

// Key is one data key, or with Legacy a row that holds an instance key.
type Key struct {
	ID        string
	Algorithm string
	Status    string // active, inactive
	Created   time.Time
	Updated   time.Time
	Opens     bool   // with the instance key
	Wrap      string // gcm, cbc, plaintext; "" when it does not open
	Legacy    bool
	// Same: a legacy row that holds the instance key, as it should.
	Same bool
	// Values names the key, those that do not open included. Of a legacy row it is the
	// values that need the instance key in it: 0 with Same.
	Values  int64
	ByPlace map[n8ndb.PlaceID]int64
	Retired time.Time // zero: it is not
}

// Listing is what List found.
type Listing struct {
	Version  n8ndb.Version
	Engine   n8ndb.Engine
	Keys     []Key // by the time they were made
	Instance int64 // un-prefixed values that the instance key opens
	Unopened int64 // values that open under no key
	Failures []n8ndb.Secret
	Unlisted []n8ndb.Unlisted // ciphertext outside the catalogue, of Retire only
	Missing  map[string]int64 // ids that values name and no row has, with their number
	Bundles  n8ndb.Bundles    // executions that are not in the database: of List unfinished ones, of Retire all
	Warnings []string

	unread int64 // values of which nobody can say which key they are under
}

// Active is the key that n8n encrypts with, nil when there is none, or several.
func (l *Listing) Active() *Key {
	var found *Key
	for i := range l.Keys {
		if k := &l.Keys[i]; !k.Legacy && k.Status == "active" {
			if found != nil {
				return nil
			}
			found = k
		}
	}
	return found
}

// Key returns the key of an id, nil when there is none.
func (l *Listing) Key(id string) *Key {
	for i := range l.Keys {
		if l.Keys[i].ID == id {
			return &l.Keys[i]
		}
	}
	return nil
}

// List reads the keys and counts what each opens.
func List(ctx context.Context, cfg Config) (*Listing, error) { return list(ctx, cfg, false) }

func list(ctx context.Context, cfg Config, everything bool) (*Listing, error) {
	bundles := n8ndb.Unfinished
	if everything {
		cfg.Executions, bundles = n8ndb.AllExecutions, n8ndb.AllExecutions
	}
	version, err := cfg.DB.Version(ctx)
	if err != nil {
		return nil, err
	}
	keys, rows, err := cfg.DB.OpenKeys(ctx, cfg.Receipt, cfg.Key)
	if err != nil {
		return nil, err
	}
	l := &Listing{Version: version, Engine: cfg.DB.Engine(), Missing: map[string]int64{}}
	if version.Warning != "" {
		l.Warnings = append(l.Warnings, version.Warning)
	}
	var retired map[string]time.Time
	if cfg.Marks != nil {
		if retired, err = cfg.Marks.RetiredDataKeys(ctx, cfg.Instance); err != nil {
			return nil, err
		}
	}
	others := map[string]bool{}
	for _, id := range keys.LegacyIDs() {
		others[id] = true
	}
	for _, r := range rows {
		l.Keys = append(l.Keys, Key{ID: r.ID, Algorithm: r.Algorithm, Status: r.Status, Created: r.Created, Updated: r.Updated,
			Opens: r.Wrap != "", Wrap: r.Wrap, Legacy: r.Legacy(), Same: r.Legacy() && r.Wrap != "" && !others[r.ID],
			ByPlace: map[n8ndb.PlaceID]int64{}, Retired: retired[r.ID]})
	}
	if l.Bundles, err = cfg.DB.BundlesOf(ctx, cfg.Storage, bundles); err != nil {
		return nil, err
	}
	v2 := map[n8ndb.PlaceID]bool{}
	for _, p := range n8ndb.Catalogue() {
		v2[p.ID] = p.Encoding == n8ndb.V2
	}
	census, err := cfg.DB.Census(ctx, n8ndb.CensusConfig{
		Keys: keys, Receipt: cfg.Receipt, Executions: cfg.Executions, BundleDir: cfg.Storage, Sweep: everything, Progress: cfg.Progress,
		Visit: func(s n8ndb.Secret) error {
			if !v2[s.Place] {
				return nil
			}
			switch k := l.Key(s.KeyRef); {
			case k != nil:
				k.Values++
				k.ByPlace[s.Place]++
			case s.Opens && s.KeyRef == n8ndb.KeyInstance:
				l.Instance++
			case s.KeyRef != n8ndb.KeyUnknown:
				l.Missing[s.KeyRef]++
			}
			if !s.Opens {
				l.Unopened++
				if s.Problem == n8ndb.Malformed {
					l.unread++
				}
				if len(l.Failures) < 100 {
					l.Failures = append(l.Failures, s)
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	l.Unlisted = census.Unlisted
	l.warn(census)
	return l, nil
}

func (cfg *Config) now() time.Time {
	if cfg.Now == nil {
		return time.Now()
	}
	return cfg.Now()
}

// Rotated is what Rotate did.
type Rotated struct {
	ID       string   // the new key; "" of a plan
	Previous []string // that were active before
	Through  string   // n8n or database
	Wrap     string   // how the key is stored; "" when n8n made it
	Warnings []string
}

// PlanRotation says what Rotate would do, and refuses what it would refuse.
func PlanRotation(ctx context.Context, cfg Config) (*Rotated, error) {
	version, err := cfg.DB.Version(ctx)
	if err != nil {
		return nil, err
	}
	if version.Before(2, 18) {
		return nil, problem.New(problem.CheckFailed, "n8n %s has no data keys: they came with 2.18", cmp.Or(version.N8N, "of this database")).
			WithHint("upgrade n8n to 2.39 or later")
	}
	_, rows, err := cfg.DB.OpenKeys(ctx, cfg.Receipt, cfg.Key)
	if err != nil {
		return nil, err
	}
	r := &Rotated{Through: "database"}
	if cfg.N8N != nil {
		r.Through = "n8n"
	}
	found, opened := 0, 0
	for _, row := range rows {
		switch {
		case row.Legacy():
			continue
		case row.Active():
			r.Previous = append(r.Previous, row.ID)
		}
		found++
		if row.Wrap != "" {
			opened++
		}
	}
	switch {
	case found == 0:
		return nil, problem.New(problem.CheckFailed, "this database has no data key yet").
			WithHint("n8n makes the first one when it is started: before 2.39 with its key rotation flag on, later always")
	case opened == 0:
		return nil, problem.New(problem.WrongKey, "the instance key opens none of the %d data keys of this database", found).
			WithHint("n8keep key find says which key does")
	}
	if version.Before(2, 39) {
		r.Warnings = append(r.Warnings, "this n8n uses data keys only while its key rotation flag is on")
	} else {
		r.Warnings = append(r.Warnings, "n8n encrypts with the new key only while its key rotation flag is on")
	}
	if len(r.Previous) != 1 {
		r.Warnings = append(r.Warnings, "no single data key was active before, with which n8n cannot encrypt; afterwards one is")
	}
	return r, nil
}

// Rotate makes a new active data key. What is encrypted already stays as it is.
func Rotate(ctx context.Context, cfg Config) (*Rotated, error) {
	r, err := PlanRotation(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if cfg.N8N != nil {
		if r.ID, err = cfg.N8N(ctx); err != nil {
			return nil, err
		}
		return r, verifyRotation(ctx, cfg, r.ID)
	}
	made, err := cfg.Swapper.AddDataKey(ctx, cfg.Receipt, cfg.Key)
	if err != nil {
		return nil, err
	}
	r.ID, r.Previous, r.Wrap = made.ID, made.Previous, made.Wrap
	return r, nil
}

// verifyRotation looks whether what n8n says it made is in this database: the address
// may be another n8n's.
func verifyRotation(ctx context.Context, cfg Config, id string) error {
	_, rows, err := cfg.DB.OpenKeys(ctx, cfg.Receipt, cfg.Key)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.ID == id && row.Active() && row.Wrap != "" {
			return nil
		}
	}
	return problem.New(problem.CheckFailed, "n8n has made the data key %q, but it is not the active one of this database", id).
		WithHint("is the address that of the n8n with this database? The key that was made there does no harm")
}
