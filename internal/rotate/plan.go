package rotate

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// PlanConfig is what a plan is made from. Everything is only read.
type PlanConfig struct {
	// Instance and Database are for people: the instance's name, and the database's
	// path or address without password.
	Instance, Database string
	// DB is the live database, and n8n may be running. Required.
	DB *n8ndb.DB
	// Receipt proves that the command was recorded. Required.
	Receipt audit.Receipt
	// Old is the key n8n has now. Required. Old.Path, if any, is named in commands.
	Old Key
	// New is the key it is to have. It is zero with NewProblem, which says why it could
	// not be read.
	New        Key
	NewProblem error
	// Others are further keys that may open values: retired ones of the keyring.
	Others []n8ndb.OtherKey
	// Storage is n8n's storage folder, "" if there is none.
	Storage string
	Choices Choices
	// Sources are the places in which n8n's key is set, as far as they were found.
	Sources []KeySource
	// KeySetByUser says --i-will-set-the-key. KeySetByStart says that a command starts n8n
	// and may give it the new key, which is not enough where n8n's settings file cannot be
	// changed: n8n compares the two.
	KeySetByUser, KeySetByStart bool
	// Env is n8n's environment, as far as it is known; optional.
	Env func(name string) (value string, ok bool)
	// KeyRotation is n8n's key rotation flag, "on" or "off"; "" when not known.
	KeyRotation string
	// StateFree and DatabaseFree are the bytes free in the state folder and where the
	// database file is; 0 when not known.
	StateFree, DatabaseFree int64
	// Progress is told rows as they are read. Optional.
	Progress func(table string, rows int64)
}

// Plan is what a rotation would do. It holds no secret: its JSON is for whoever asked,
// with names of credentials in it, and not for logs.
type Plan struct {
	Instance   string               `json:"instance"`
	Database   string               `json:"database"`
	Engine     n8ndb.Engine         `json:"engine"`
	N8NVersion string               `json:"n8n_version"`
	OldKey     n8ncrypt.Fingerprint `json:"old_key"`
	NewKey     n8ncrypt.Fingerprint `json:"new_key"`
	AfterLeak  bool                 `json:"after_leak"`
	Executions string               `json:"executions"` // "waiting" or "all"

	Places   []PlanPlace       `json:"places"` // of this database, catalogue order
	Values   int64             `json:"values"`
	Change   int64             `json:"change"`      // get new bytes
	Already  int64             `json:"already_new"` // are under the new key
	Unopened int64             `json:"unopened"`    // open under no key
	Misread  int64             `json:"misread"`     // open here, but not in n8n as it is
	ByKey    map[string]int64  `json:"by_key"`
	Failures []n8ndb.Secret    `json:"failures"` // the first 100 of Unopened
	Unlisted []PlanUnlisted    `json:"unlisted"`
	KeyFound []n8ndb.NeedleHit `json:"key_found"` // columns with the old key in clear, the first 100

	Derived    []Derived        `json:"derived"`
	Sources    []PlanSource     `json:"key_places"`
	Dependents n8ndb.Dependents `json:"dependents"`
	MFALogouts int64            `json:"mfa_logouts"` // users whose session ends because of the format of their MFA secret
	// LeftBehind counts finished executions whose data stays under the old key, and
	// LeftValues the values in them, in the database. LeftUnseen are finished executions
	// on disk, in S3 or Azure that nobody looked into.
	LeftBehind int64 `json:"left_behind"`
	LeftValues int64 `json:"left_behind_values"`
	LeftUnseen int64 `json:"left_behind_unseen"`
	// LeftUnread are those in the database that are older than the newest, which are read.
	LeftUnread int64 `json:"left_behind_unread"`
	// LeftKeyed and LeftKeyedValues are, after a leak, likewise those whose data stays under
	// data keys that could be read with the old key.
	LeftKeyed       int64 `json:"left_behind_data_key,omitempty"`
	LeftKeyedValues int64 `json:"left_behind_data_key_values,omitempty"`
	// Waiting values are those of executions that are not finished.
	WaitingValues int64 `json:"waiting_values"`
	Bundles       int64 `json:"bundles"` // files of executions on disk that are looked into

	JournalBytes int64 `json:"journal_bytes"` // on the disk, from above, for the way back

	Exposed       []Exposed `json:"exposed,omitempty"` // after a leak
	ExposedAdvice []string  `json:"exposed_advice,omitempty"`
	LeavesDataKey bool      `json:"leaves_data_key,omitempty"` // as in Exposure

	Effects  []string  `json:"effects"`
	Refusals []Refusal `json:"refusals"`
	Warnings []string  `json:"warnings"`

	stored int64 // of Already, those in the database: all that a count of it finds later
}

// PlanPlace is one place of the catalogue.
type PlanPlace struct {
	Place    n8ndb.PlaceID    `json:"place"`
	Number   int              `json:"number"`
	Values   int64            `json:"values"`
	Change   int64            `json:"change"`
	Unopened int64            `json:"unopened"`
	Plain    int64            `json:"plaintext"`
	ByKey    map[string]int64 `json:"by_key"`
}

// PlanUnlisted is a column outside the catalogue that holds what looks like ciphertext.
type PlanUnlisted struct {
	n8ndb.Unlisted
	Accepted bool // by the user
}

// Refusal is a reason for which the plan must not be carried out.
type Refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"` // what to do; several lines are several hints
}

// countedFinished is how many finished executions are read to count what stays behind.
// To read all that n8n has kept may take minutes; older ones are counted as executions.
const countedFinished = 2000

// mfaPlace: n8n puts the first characters of this ciphertext into the session.
const mfaPlace = n8ndb.PlaceID("user.mfaSecret")

// wrongOldKey is the code of the refusal that is the exit code of a wrong key.
const wrongOldKey = "old-key"

// noStorage is the code of the refusal that is the exit code of something missing.
const noStorage = "storage-missing"

// Refused is nil for a plan that may be carried out. Else it is CheckFailed with all
// reasons, WrongKey when the old key is not the database's, or NotFound when nothing but
// the storage folder is missing.
func (p *Plan) Refused() error {
	if len(p.Refusals) == 0 {
		return nil
	}
	kind := problem.CheckFailed
	var messages []string
	for _, r := range p.Refusals {
		if r.Code == wrongOldKey {
			kind = problem.WrongKey
		}
		if r.Code == noStorage && len(p.Refusals) == 1 {
			kind = problem.NotFound
		}
		messages = append(messages, r.Message)
	}
	e := problem.New(kind, "%s", messages[0])
	if len(messages) > 1 {
		e = problem.New(kind, "%d reasons against this rotation: %s", len(messages), strings.Join(messages, "; "))
	}
	for _, r := range p.Refusals {
		if r.Hint != "" && !strings.Contains(e.Hint, r.Hint) {
			e = e.WithHint("%s", r.Hint)
		}
	}
	return e
}

func (p *Plan) refuse(code, hint, format string, args ...any) {
	p.Refusals = append(p.Refusals, Refusal{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// MakePlan reads the database under all keys and says what a rotation would do and
// what stands against it. An error means that it could not be read; reasons against
// the rotation are in the plan, all of them at once.
func MakePlan(ctx context.Context, cfg PlanConfig) (*Plan, error) {
	switch {
	case cfg.DB == nil, !cfg.Receipt.Valid():
		return nil, problem.New(problem.Unexpected, "a plan needs a database and a command that is recorded")
	case cfg.Old.Key.IsZero():
		return nil, problem.New(problem.Usage, "a rotation needs the instance key that n8n has now").WithHint("give it with --key-file FILE")
	case cfg.New.Key.IsZero() && cfg.NewProblem == nil:
		return nil, problem.New(problem.Usage, "a rotation needs a new instance key").WithHint("%s", makeKey)
	}
	version, err := cfg.DB.Version(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Instance: cfg.Instance, Database: cfg.Database, Engine: cfg.DB.Engine(), N8NVersion: version.N8N, AfterLeak: cfg.Choices.AfterLeak,
		Executions: "waiting", ByKey: map[string]int64{}, Failures: []n8ndb.Secret{}, Unlisted: []PlanUnlisted{}, KeyFound: []n8ndb.NeedleHit{},
		Sources: []PlanSource{}, Effects: []string{}, Refusals: []Refusal{}, Warnings: []string{}}
	if cfg.Choices.Executions == n8ndb.AllExecutions {
		p.Executions = "all"
	}
	if p.OldKey = cfg.Old.Fingerprint; p.OldKey == "" {
		p.OldKey = cfg.Old.Key.Fingerprint()
	}
	if p.NewKey = cfg.New.Fingerprint; p.NewKey == "" {
		p.NewKey = cfg.New.Key.Fingerprint() // "" for the zero key
	}
	if version.Warning != "" {
		p.warn("%s", version.Warning)
	}
	p.newKey(cfg, version)
	facts, err := p.read(ctx, cfg, version)
	if err != nil {
		return nil, err
	}
	p.values(cfg)
	p.versions(cfg, version, facts)
	p.bundles(cfg, facts)
	p.room(cfg, facts)
	p.sources(cfg)
	var warnings []string
	p.Derived, warnings = planDerived(derivedFacts{version: version, rows: facts.rows, env: cfg.Env, old: cfg.Old, leak: p.AfterLeak, dependents: p.Dependents})
	p.Warnings = append(p.Warnings, warnings...)
	leaking := p.AfterLeak && staysActive(version, facts.rows)
	p.effects(cfg, version, leaking)
	if p.AfterLeak {
		uses, err := cfg.DB.CredentialUses(ctx)
		if err != nil {
			return nil, err
		}
		x := exposure(p, version, uses, leaking)
		p.Exposed, p.ExposedAdvice, p.LeavesDataKey = x.List, x.Advice, x.LeavesDataKey
	}
	return p, nil
}

func (p *Plan) newKey(cfg PlanConfig, version n8ndb.Version) {
	if cfg.New.Key.IsZero() {
		hint := problem.HintOf(cfg.NewProblem)
		p.refuse("new-key-unreadable", cmp.Or(hint, makeKey), "the new key cannot be read: %v", cfg.NewProblem)
		return
	}
	refusals, warnings := checkNewKey(cfg.Old.Key, cfg.New.Key, version)
	p.Refusals, p.Warnings = append(p.Refusals, refusals...), append(p.Warnings, warnings...)
	for _, o := range cfg.Others {
		if !o.Key.Equal(cfg.New.Key) {
			continue
		}
		if p.AfterLeak {
			p.refuse("new-key-retired", makeKey, "the new key is one that this n8n had before (%s)", o.Name)
		} else {
			p.warn("the new key is one that this n8n had before (%s)", o.Name)
		}
		break
	}
}

// planFacts is what was read beside the census.
type planFacts struct {
	rows     []n8ndb.KeyRow
	sizes    []n8ndb.ColumnSize
	bundles  n8ndb.Bundles
	bundled  int64 // bytes of the bundle files in scope
	standby  bool
	readOnly []string
}

func (p *Plan) read(ctx context.Context, cfg PlanConfig, version n8ndb.Version) (f planFacts, err error) {
	others := slices.Clone(cfg.Others)
	if !cfg.New.Key.IsZero() {
		// First, so that it is called by this name whatever else holds it.
		others = append([]n8ndb.OtherKey{{Name: otherKey, Key: cfg.New.Key}}, others...)
	}
	keys, err := cfg.DB.KeysetOf(ctx, cfg.Receipt, cfg.Old.Key, others...)
	if err != nil {
		return f, err
	}
	change, waiting := map[n8ndb.PlaceID]int64{}, int64(0)
	places := map[n8ndb.PlaceID]n8ndb.Place{}
	for _, place := range n8ndb.Catalogue() {
		places[place.ID] = place
	}
	census, err := cfg.DB.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: cfg.Receipt, Executions: cfg.Choices.Executions, BundleDir: cfg.Storage,
		Sweep: true, Needle: n8ndb.NewNeedle(cfg.Old.Key), Progress: cfg.Progress,
		Visit: func(s n8ndb.Secret) error {
			place := places[s.Place]
			if changes(place, s, p.AfterLeak, version) {
				change[s.Place]++
			}
			if s.Opens && s.KeyRef == otherKey {
				p.Already++
				if place.Container != n8ndb.Bundle {
					p.stored++
				}
			}
			if place.Container == n8ndb.Flatted || place.Container == n8ndb.Bundle {
				waiting++
			}
			if s.Place == mfaPlace && p.AfterLeak && s.Opens && (!version.Before(2, 39) || s.Format == n8ncrypt.Prefixed.String()) {
				p.MFALogouts++
			}
			return nil
		}})
	if err != nil {
		return f, err
	}
	for _, c := range census.Places {
		place := places[c.ID]
		p.Places = append(p.Places, PlanPlace{Place: c.ID, Number: place.Number, Values: c.Values, Change: change[c.ID], Unopened: c.Failed, Plain: c.Plain, ByKey: c.ByKey})
		p.Change += change[c.ID]
	}
	p.Values, p.Unopened, p.Misread, p.ByKey = census.Values, census.Failed, census.MisreadTotal, census.ByKey
	p.Failures = append(p.Failures, census.Failures...)
	for _, u := range census.Unlisted {
		p.Unlisted = append(p.Unlisted, PlanUnlisted{Unlisted: u, Accepted: slices.Contains(cfg.Choices.AcceptUnlisted, u.Table+"."+u.Column)})
	}
	for _, h := range census.NeedleHits {
		if h.Table != "deployment_key" { // n8n's own, which the rotation writes anew
			p.KeyFound = append(p.KeyFound, h)
		}
	}
	if cfg.Choices.Executions != n8ndb.AllExecutions {
		p.WaitingValues = waiting
		newest := countedFinished
		if p.AfterLeak {
			newest = 0 // what leaked has to be known
		}
		left, err := cfg.DB.FinishedValues(ctx, p.AfterLeak, newest, cfg.Progress)
		if err != nil {
			return f, err
		}
		p.LeftBehind, p.LeftValues, p.LeftKeyed, p.LeftKeyedValues, p.LeftUnread = left.Executions, left.Values, left.KeyedExecutions, left.KeyedValues, left.Unread
	}
	if p.Dependents, err = cfg.DB.Dependents(ctx); err != nil {
		return f, err
	}
	if f.rows, err = cfg.DB.KeyRows(ctx); err != nil {
		return f, err
	}
	if f.sizes, err = cfg.DB.RewriteSize(ctx, cfg.Choices.Executions, p.AfterLeak); err != nil {
		return f, err
	}
	if f.readOnly, f.standby, err = cfg.DB.Unwritable(ctx); err != nil {
		return f, err
	}
	if f.bundles, err = cfg.DB.Bundles(ctx, cfg.Storage); err != nil {
		return f, err
	}
	if cfg.Storage == "" {
		return f, nil
	}
	files, err := cfg.DB.BundleFiles(ctx, cfg.Storage, cfg.Choices.Executions)
	if err != nil {
		return f, err
	}
	p.Bundles, f.bundled = int64(len(files)), bundleBytes(cfg.Storage, files)
	return f, nil
}

// bundleBytes is the size of files that may vanish at any moment.
func bundleBytes(storage string, files []string) (sum int64) {
	for _, name := range files {
		if info, err := fs.Stat(os.DirFS(storage), name); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// changes reports whether a value gets new bytes. It is what the engine's sealing does,
// without doing it; a test keeps the two together.
func changes(p n8ndb.Place, s n8ndb.Secret, leak bool, version n8ndb.Version) bool {
	prefixed := s.Format == n8ncrypt.Prefixed.String()
	switch {
	case p.Encoding == n8ndb.Clear, !s.Opens && !s.Plain:
		return false
	case p.ID == legacyPlace:
		return s.KeyRef != otherKey
	case s.Plain:
		return leak && p.Encoding == n8ndb.Pinned
	case leak && p.Encoding == n8ndb.Pinned, leak && p.Encoding == n8ndb.V2 && (prefixed || !version.Before(2, 39)):
		return true
	case prefixed:
		return false
	}
	return s.KeyRef != otherKey
}

// values refuses what cannot be opened or is not known.
func (p *Plan) values(cfg PlanConfig) {
	closed := p.Unopened
	switch ciphertext := sum(p.ByKey); {
	case ciphertext == 0:
		p.warn("there is no encrypted value: nothing proves that the old key is n8n's")
	case p.ByKey[n8ndb.KeyInstance] == 0 && p.Already > 0:
		p.refuse("already-new", `look at it with "n8keep census --key-file FILE"; if n8n has the old key in its config, correct it there`,
			"the database is under the new key already: the old one opens nothing, the new one %s", counted(p.Already, "value"))
		return
	case p.ByKey[n8ndb.KeyInstance] == 0:
		p.refuse(wrongOldKey, `find the right one with "n8keep key find --candidate FILE", and give it with --key-file FILE`,
			"instance key %s opens none of %s", p.OldKey, counted(ciphertext, "encrypted value"))
		return
	}
	if closed > 0 && !cfg.Choices.Quarantine {
		first := p.Failures[0]
		p.refuse("values-unopened", "look for their key among old ones with \"n8keep key find --candidate FILE\", or delete what nobody needs in n8n\n"+
			"or leave exactly these as they are with --quarantine: they stay unreadable",
			"%s under no known key, %s row %q among them (%s)", opens(closed), first.Place, first.Row, first.Problem)
	} else if closed > 0 {
		p.warn("%s under no known key: left as it is (--quarantine)", opens(closed))
		for _, s := range p.Failures {
			if place, ok := n8ndb.Catalogued(s.Place); ok && place.Table == "deployment_key" {
				p.warn("%s row %q is one of n8n's own keys and does not open: n8n may refuse to start, with either key", s.Place, s.Row)
				break
			}
		}
	}
	for _, u := range p.Unlisted {
		name := u.Table + "." + u.Column
		switch {
		case u.Opened == 0:
			p.warn("%s holds %s like n8n's ciphertext, and no key opens it: left as it is", name, looks(u.Values))
		case u.Accepted:
			p.warn("%s holds %s under a known key and stays as it is (--accept-unlisted)", name, values(u.Opened))
		default:
			p.refuse("values-unlisted", fmt.Sprintf("report it, please: n8keep has to learn this place\nor, if nobody needs these values, leave them under the old key with --accept-unlisted %s", name),
				"%s is no place that n8keep knows and holds %s under a known key, in row %q", name, values(u.Opened), u.Row)
		}
	}
	for _, name := range cfg.Choices.AcceptUnlisted {
		if !slices.ContainsFunc(p.Unlisted, func(u PlanUnlisted) bool { return u.Table+"."+u.Column == name }) {
			p.warn("--accept-unlisted %q: there is nothing that would have to be accepted", name)
		}
	}
	for i, h := range p.KeyFound {
		if i == 3 {
			p.warn("the old key stands in clear in more values, %d in all", len(p.KeyFound))
			break
		}
		p.warn("the old key stands in clear in %s.%s, row %q: it stays there", h.Table, h.Column, h.Row)
	}
	if p.Already > 0 {
		p.warn("%s under the new key already", are(p.Already))
	}
}

func sum(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

func values(n int64) string { return counted(n, "value") }

func opens(n int64) string {
	if n == 1 {
		return "1 value opens"
	}
	return values(n) + " open"
}

func are(n int64) string {
	if n == 1 {
		return "1 value is"
	}
	return values(n) + " are"
}

func looks(n int64) string {
	if n == 1 {
		return "1 value that looks"
	}
	return values(n) + " that look"
}
