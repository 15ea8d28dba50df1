package reencrypt

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Defaults of Config.
const (
	DefaultBatchRows  = 25
	DefaultMostPasses = 10
)

// Run carries a plan out, which it makes itself when plan is nil; it refuses what the
// plan refuses. An error of kind Partial says that it ended with values left: n8n goes
// on writing under another key, or they open under no key. The result is never nil
// once the plan is made.
func Run(ctx context.Context, cfg Config, plan *Plan) (*Result, error) {
	if plan == nil {
		var err error
		if plan, err = MakePlan(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &run{cfg: &cfg, digest: newDigest(), users: map[string]bool{},
		out: &Result{Plan: plan, KeyID: plan.KeyID, ByPlace: map[n8ndb.PlaceID]int64{}}}
	if err := plan.Refused(); err != nil {
		return r.out, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	began := cfg.Now()
	err := r.passes(ctx)
	r.out.MFA = int64(len(r.users))
	r.out.Seconds = cfg.Now().Sub(began).Seconds()
	return r.out, err
}

// run is one run.
type run struct {
	cfg    *Config
	out    *Result
	digest func(place, row string, plaintext []byte) string
	users  map[string]bool // whose sessions have ended
}

func (r *run) passes(ctx context.Context) error {
	most := cmp.Or(r.cfg.MostPasses, DefaultMostPasses)
	for n := 1; n <= most; n++ {
		found, err := r.pass(ctx, n)
		if err != nil {
			return err
		}
		if found {
			continue
		}
		if err := r.cfg.DB.Flush(ctx); err != nil {
			return err
		}
		if err := r.prove(ctx); err != nil {
			return err
		}
		if r.out.Left == 0 {
			r.out.Converged = true
			return r.unopened()
		}
	}
	if err := r.prove(ctx); err != nil {
		return err
	}
	return problem.New(problem.Partial, "after %s, %s not under %s: n8n, or somebody, goes on saving under another key", passes(most), are(r.out.Left), r.key()).
		WithHint("is the key rotation flag of every n8n process what was said? Values that were moved are readable; run the command again when less is saved")
}

func openNot(n int64) string {
	if n == 1 {
		return "1 value opens under no key and is left as it is"
	}
	return fmt.Sprintf("%d values open under no key and are left as they are", n)
}

func are(n int64) string {
	if n == 1 {
		return "1 value is"
	}
	return fmt.Sprintf("%d values are", n)
}

func passes(n int) string {
	if n == 1 {
		return "1 pass"
	}
	return fmt.Sprintf("%d passes", n)
}

func (r *run) key() string {
	if r.out.KeyID == "" {
		return "the instance key"
	}
	return fmt.Sprintf("the data key %q", r.out.KeyID)
}

func (r *run) unopened() error {
	if r.out.Unopened == 0 {
		return nil
	}
	return problem.New(problem.Partial, "everything else is under %s, but %s", r.key(), openNot(r.out.Unopened)).
		WithHint("n8keep census lists them; n8keep key find may find the key")
}

// pass walks once. found says that there was something to do.
func (r *run) pass(ctx context.Context, number int) (found bool, err error) {
	state, err := r.still(ctx)
	if err != nil {
		return false, err
	}
	keys, err := r.keys(ctx)
	if err != nil {
		return false, err
	}
	seal, _, err := keys.Reseal(r.out.KeyID)
	if err != nil {
		return false, err
	}
	batch := cmp.Or(r.cfg.BatchRows, DefaultBatchRows)
	if rate := r.cfg.RowsPerSecond; rate > 0 {
		batch = min(batch, max(1, rate/4)) // so that a bound is also kept within a second
	}
	factors, err := r.cfg.DB.SecondFactors(ctx)
	if err != nil {
		return false, err
	}
	began := r.cfg.Now()
	done, err := r.cfg.DB.Pass(ctx, n8ndb.PassConfig{
		Keys: keys, Receipt: r.cfg.Receipt, Executions: r.cfg.Executions, Seal: seal, Digest: r.digest, BatchRows: batch, Wait: r.wait,
		Progress: func(table string, rows, changed int64) {
			if r.cfg.Progress != nil {
				r.cfg.Progress(Progress{Pass: number, Table: table, Rows: rows, Changed: r.out.Changed + changed, Of: r.out.Plan.Change})
			}
		},
	})
	p := Pass{Number: number, Values: done.Values, Changed: done.Changed, Lost: done.Lost, Unopened: done.Unopened, Longest: done.Longest.Seconds()}
	r.out.Changed += done.Changed
	r.out.Lost += done.Lost
	for id, n := range done.ByPlace {
		r.out.ByPlace[id] += n
	}
	for _, id := range done.Sessions {
		if factors[id] {
			r.users[id] = true
		}
	}
	if err == nil && state == Stopped && r.cfg.Storage != "" {
		var files, values int64
		files, values, err = r.bundles(ctx, keys, seal)
		r.out.Bundles += files
		p.Changed += values
		r.out.Changed += values
	}
	p.Seconds = r.cfg.Now().Sub(began).Seconds()
	r.out.Passes = append(r.out.Passes, p)
	r.cfg.Logger.Debug("pass ended", "pass", number, "changed", p.Changed, "lost", p.Lost, "longest_write", done.Longest)
	return p.Changed+p.Lost > 0, err
}

// still looks whether n8n was started meanwhile where it has to be stopped.
func (r *run) still(ctx context.Context) (State, error) {
	now := &Plan{Version: r.out.Plan.Version, To: r.cfg.To, Flag: r.out.Plan.Flag}
	if err := now.look(ctx, r.cfg); err != nil {
		return "", err
	}
	if err := now.Refused(); err != nil {
		return "", problem.New(problem.Busy, "n8n was started meanwhile: %s", err.Error()).
			WithHint("what was moved is readable; stop n8n and run the command again")
	}
	return now.State, nil
}

// keys reads the keys anew: n8n may have made another data key since, and made it
// active.
func (r *run) keys(ctx context.Context) (*n8ndb.Keyset, error) {
	keys, rows, err := r.cfg.DB.OpenKeys(ctx, r.cfg.Receipt, r.cfg.Key)
	if err != nil {
		return nil, err
	}
	id, refusal := r.cfg.resolve(rows, keys)
	if refusal != nil {
		return nil, (&Plan{Refusals: []Refusal{*refusal}}).Refused()
	}
	if id != r.out.KeyID {
		r.out.Warnings = append(r.out.Warnings, fmt.Sprintf("the active data key has changed from %q to %q meanwhile", r.out.KeyID, id))
		r.out.KeyID = id
	}
	return keys, nil
}

// prove takes a census of what the passes have walked through.
func (r *run) prove(ctx context.Context) error {
	state, err := r.still(ctx)
	if err != nil {
		return err
	}
	keys, err := r.keys(ctx)
	if err != nil {
		return err
	}
	_, done, err := keys.Reseal(r.out.KeyID)
	if err != nil {
		return err
	}
	storage := r.cfg.Storage
	if state != Stopped {
		storage = "" // left alone, and said
	}
	v2 := movable()
	r.out.Left, r.out.Proved, r.out.Unopened, r.out.Failures = 0, 0, 0, nil
	_, err = r.cfg.DB.Census(ctx, n8ndb.CensusConfig{
		Keys: keys, Receipt: r.cfg.Receipt, Executions: r.cfg.Executions, BundleDir: storage,
		Visit: func(s n8ndb.Secret) error {
			switch {
			case !v2[s.Place]:
			case !s.Opens:
				r.out.Unopened++
				if len(r.out.Failures) < 100 {
					r.out.Failures = append(r.out.Failures, s)
				}
			case done(s):
				r.out.Proved++
			default:
				r.out.Left++
			}
			return nil
		},
	})
	return err
}

// wait leaves n8n at least as much time as a transaction took, and keeps the rate.
func (r *run) wait(ctx context.Context, rows int, took time.Duration) error {
	if r.cfg.betweenBatches != nil {
		r.cfg.betweenBatches()
	}
	pause := max(took, 2*time.Millisecond)
	if rate := r.cfg.RowsPerSecond; rate > 0 {
		pause = max(pause, time.Duration(rows)*time.Second/time.Duration(rate)-took)
	}
	return n8ndb.Pause(ctx, pause)
}

// newDigest makes a keyed digest that nobody can repeat after the run.
func newDigest() func(place, row string, plaintext []byte) string {
	key := make([]byte, 32)
	rand.Read(key)
	return func(place, row string, plaintext []byte) string {
		mac := hmac.New(sha256.New, key)
		for _, b := range [][]byte{[]byte(place), []byte(row), plaintext} {
			var n [8]byte
			binary.BigEndian.PutUint64(n[:], uint64(len(b)))
			mac.Write(n[:])
			mac.Write(b)
		}
		return hex.EncodeToString(mac.Sum(nil))
	}
}
