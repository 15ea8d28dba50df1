package reencrypt

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// MakePlan reads everything once and says what a run would do, or why it is refused.
// Its error is only that something could not be read.
func MakePlan(ctx context.Context, cfg Config) (*Plan, error) {
	p := &Plan{To: cfg.To, Flag: cmp.Or(cfg.Flag, FlagUnknown)}
	var err error
	if p.Version, err = cfg.DB.Version(ctx); err != nil {
		return nil, err
	}
	if p.Version.Warning != "" {
		p.Warnings = append(p.Warnings, p.Version.Warning)
	}
	if err := p.look(ctx, &cfg); err != nil {
		return nil, err
	}
	keys, rows, err := cfg.DB.OpenKeys(ctx, cfg.Receipt, cfg.Key)
	if err != nil {
		return nil, err
	}
	var refusal *Refusal
	if p.KeyID, refusal = cfg.resolve(rows, keys); refusal != nil && p.allowed() {
		p.Refusals = append(p.Refusals, *refusal)
	}
	if p.Bundles, err = cfg.DB.Bundles(ctx, cfg.Storage); err != nil {
		return nil, err
	}
	census, err := p.count(ctx, &cfg, keys, refusal == nil)
	if err != nil {
		return nil, err
	}
	if census.Proved == 0 && census.Failed > 0 {
		p.Refusals = slices.Insert(p.Refusals, 0, Refusal{"wrong-key", problem.WrongKey,
			fmt.Sprintf("the instance key opens none of the %d values of this database", census.Failed), "n8keep key find says which key does"})
	}
	p.warn(&cfg, rows)
	if cfg.To.Legacy() {
		p.obstacles(&cfg, census)
	}
	return p, nil
}

// look asks who is attached, and finds the row of the table.
func (p *Plan) look(ctx context.Context, cfg *Config) error {
	attached, err := cfg.Attached(ctx)
	if err != nil {
		return err
	}
	p.State, p.By = Stopped, attached.By
	switch {
	case len(attached.By) > 0:
		p.State = Runs
	case len(attached.Unchecked) > 0:
		p.State = Runs
		for _, gap := range attached.Unchecked {
			p.Warnings = append(p.Warnings, gap+"; n8n therefore counts as running (--assume-stopped if it does not)")
		}
	}
	var here Combination
	p.Table, here = Look(VersionsOf(p.Version), p.Flag, p.State, p.To)
	switch {
	case here.Allowed && here.Why != "":
		p.Warnings = append(p.Warnings, here.Why)
	case here.Allowed:
	case p.Flag == FlagUnknown && here.Flag == string(FlagUnknown):
		p.Refusals = append(p.Refusals, Refusal{"flag-unknown", problem.Usage, here.Why, here.Hint})
	default:
		p.Refusals = append(p.Refusals, Refusal{"combination", problem.CheckFailed, here.Why, here.Hint})
	}
	return nil
}

func (p *Plan) allowed() bool { return len(p.Refusals) == 0 }

// Refused is nil when the plan may be carried out, else its first refusal.
func (p *Plan) Refused() error {
	if p.allowed() {
		return nil
	}
	r := p.Refusals[0]
	e := problem.New(r.Kind, "%s", r.Text)
	if r.Hint != "" {
		e.WithHint("%s", r.Hint)
	}
	return e
}

// resolve finds the data key that is meant; "" is the instance key.
func (cfg *Config) resolve(rows []n8ndb.DataKeyRow, keys *n8ndb.Keyset) (string, *Refusal) {
	refuse := func(code string, kind problem.Kind, hint, format string, args ...any) (string, *Refusal) {
		return "", &Refusal{code, kind, fmt.Sprintf(format, args...), hint}
	}
	if cfg.To.Legacy() {
		for _, r := range rows {
			switch {
			case r.Legacy() && slices.Contains(keys.LegacyIDs(), r.ID):
				return refuse("legacy-row", problem.CheckFailed, "n8keep rotate instance puts the key into all of these rows and everything under it",
					"the legacy row %q of deployment_key holds another instance key, with which n8n would read what is written here", r.ID)
			case r.Legacy() && r.Wrap == "":
				return refuse("legacy-row", problem.CheckFailed, "n8keep key find says which key opens it",
					"the legacy row %q of deployment_key, with which n8n reads values under the instance key, does not open with it", r.ID)
			}
		}
		return "", nil
	}
	var active []string
	var found *n8ndb.DataKeyRow
	for i, r := range rows {
		if r.Legacy() {
			if r.ID == cfg.To.String() {
				return refuse("not-a-data-key", problem.Usage, "--to legacy moves values to the instance key",
					"%q is no data key: it holds the instance key", r.ID)
			}
			continue
		}
		if r.Active() {
			active = append(active, r.ID)
		}
		if r.ID == cfg.To.String() || cfg.To.Active() && r.Active() {
			found = &rows[i]
		}
	}
	switch {
	case cfg.To.Active() && len(active) == 0:
		return refuse("no-active-key", problem.CheckFailed, "n8n makes the first one when it is started: before 2.39 with its key rotation flag on, later always",
			"no data key is active")
	case cfg.To.Active() && len(active) > 1:
		return refuse("no-active-key", problem.CheckFailed, "n8keep data-key rotate leaves exactly one active",
			"%d data keys are active, of which n8n could use none", len(active))
	case found == nil:
		return refuse("no-such-key", problem.NotFound, "n8keep data-key list shows the ids", "there is no data key %q", cfg.To.String())
	case found.Wrap == "":
		return refuse("key-does-not-open", problem.WrongKey, "n8keep key find says which key does",
			"the instance key does not open the data key %q", found.ID)
	}
	if at, ok := cfg.Retired[found.ID]; ok && !cfg.To.Active() {
		return refuse("retired", problem.Usage, "--to active", "the data key %q was retired on %s", found.ID, at.UTC().Format(time.DateOnly))
	}
	return found.ID, nil
}

// movable are the places with values under either kind of key.
func movable() map[n8ndb.PlaceID]bool {
	places := map[n8ndb.PlaceID]bool{}
	for _, p := range n8ndb.Catalogue() {
		if p.Encoding == n8ndb.V2 {
			places[p.ID] = true
		}
	}
	return places
}

// count takes a census. Without a key nothing counts as to be changed.
func (p *Plan) count(ctx context.Context, cfg *Config, keys *n8ndb.Keyset, target bool) (*n8ndb.Census, error) {
	done := func(n8ndb.Secret) bool { return true }
	if target {
		var err error
		if _, done, err = keys.Reseal(p.KeyID); err != nil {
			return nil, err
		}
	}
	factors, err := cfg.DB.SecondFactors(ctx)
	if err != nil {
		return nil, err
	}
	v2 := movable()
	change := map[n8ndb.PlaceID]int64{}
	var seen int64
	census, err := cfg.DB.Census(ctx, n8ndb.CensusConfig{
		Keys: keys, Receipt: cfg.Receipt, Executions: cfg.Executions, BundleDir: cfg.Storage,
		Visit: func(s n8ndb.Secret) error {
			if !v2[s.Place] {
				return nil
			}
			if seen++; cfg.Progress != nil && seen%1000 == 0 {
				place, _ := n8ndb.Catalogued(s.Place)
				cfg.Progress(Progress{Table: place.Table, Rows: seen})
			}
			switch {
			case !s.Opens:
				if len(p.Failures) < 100 {
					p.Failures = append(p.Failures, s)
				}
			case !done(s):
				change[s.Place]++
				if s.Place == n8ndb.MFASecret && factors[s.Row] && p.endsSessions(s) {
					p.MFA++
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	for _, c := range census.Places {
		if !v2[c.ID] {
			continue
		}
		place, _ := n8ndb.Catalogued(c.ID)
		p.Places = append(p.Places, Place{c.ID, place.Number, c.Values, change[c.ID], c.Failed, c.ByKey})
		p.Values += c.Values
		p.Change += change[c.ID]
		p.Unopened += c.Failed
	}
	return census, nil
}

// endsSessions: n8n's sessions depend on the first three characters of the ciphertext.
func (p *Plan) endsSessions(s n8ndb.Secret) bool {
	begins := func(format, key string) string {
		if format == n8ncrypt.CBC.String() || len(key) < 3 {
			return "U2F"
		}
		return key[:3]
	}
	to := n8ncrypt.Prefixed.String()
	if p.KeyID == "" {
		to = n8ncrypt.CBC.String()
	}
	return begins(s.Format, s.KeyRef) != begins(to, p.KeyID)
}

func (p *Plan) warn(cfg *Config, rows []n8ndb.DataKeyRow) {
	add := func(format string, args ...any) { p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...)) }
	if !cfg.To.Legacy() {
		if workersBlind(p.Version) {
			add("workers of n8n %s cannot read values under a data key (fixed in 2.22): in queue mode upgrade first", p.Version.N8N)
		}
		for _, r := range rows {
			switch {
			case r.ID == p.KeyID && r.Wrap == n8ncrypt.WrapPlaintext.String():
				add("the data key %q is stored in clear (n8n 2.18): whoever has the database reads what is under it", r.ID)
			case r.Active() && !r.Legacy() && p.KeyID != "" && r.ID != p.KeyID:
				add("the data key %q is not the active one: with its flag on n8n goes on saving under %q", p.KeyID, r.ID)
			}
		}
	}
	if p.Unopened > 0 {
		add("%s", openNot(p.Unopened))
	}
	if p.MFA > 0 {
		add("%s with a second factor will have to log in again", plural(p.MFA, "user"))
	}
	files := int64(len(p.Bundles.Files))
	if files > 0 && p.State == Runs {
		add("the data of %s lies in files, which are rewritten only while n8n is stopped", plural(files, "execution"))
	}
	if n := len(p.Bundles.Missing); n > 0 {
		add("the data of %s is not in n8n's storage folder", plural(int64(n), "execution"))
	}
	if n := p.Bundles.Elsewhere; n > 0 {
		add("the data of %s lies in S3 or Azure, where it is left as it is: let them end first", plural(n, "execution"))
	}
}

// obstacles says what else stands in the way of an older n8n, or of the flag.
func (p *Plan) obstacles(cfg *Config, census *n8ndb.Census) {
	add := func(format string, args ...any) { p.Obstacles = append(p.Obstacles, fmt.Sprintf(format, args...)) }
	if p.Unopened > 0 {
		add("%s; no n8n reads such", openNot(p.Unopened))
	}
	if len(p.Bundles.Files) > 0 && p.State == Runs {
		add("the data of %s in files is left under its data key: run this again with n8n stopped", plural(int64(len(p.Bundles.Files)), "execution"))
	}
	if p.Bundles.Elsewhere > 0 {
		add("the data of %s in S3 or Azure is left under its data key", plural(p.Bundles.Elsewhere, "execution"))
	}
	if cfg.Executions != n8ndb.AllExecutions {
		add("the data of finished executions is left as it is: where it is under a data key, an n8n before 2.39 without the flag cannot retry them (--executions all)")
	}
	if !p.Version.Before(2, 39) {
		add("n8n from 2.39 keeps its signing secrets wrapped, which an older one takes for the secrets themselves: set N8N_USER_MANAGEMENT_JWT_SECRET, N8N_HMAC_SIGNATURE_SECRET and N8N_BINARY_DATA_SIGNING_SECRET there, or sessions, API keys and signed links end")
	}
	if !p.Version.Before(2, 41) {
		for _, c := range census.Places {
			if c.ID == "deployment_key[jwe.private-key]" && c.Values > 0 {
				add("n8n before 2.41 cannot read the JWE key as it is stored now")
			}
		}
	}
	add("an older n8n does not start on the tables of a newer one: undo its migrations with n8n's command db:revert, once for each")
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
