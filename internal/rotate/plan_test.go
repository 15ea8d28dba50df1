package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// planned is a fixture's copy that a plan is made of.
type planned struct {
	f        n8ndbtest.Fixture
	seeded   n8ndbtest.Seeded
	location string
}

func newPlanned(t *testing.T, fixture string, seed bool) *planned {
	t.Helper()
	p := &planned{f: n8ndbtest.Load(t, fixture)}
	p.location, p.seeded = p.f.Prepare(t, seed)
	return p
}

func (p *planned) exec(t *testing.T, stmt string, args ...any) {
	t.Helper()
	p.f.Exec(t, p.location, stmt, args...)
}

// plan makes a plan of a config that has nothing against it but what change puts in.
func (p *planned) plan(t *testing.T, change func(*PlanConfig)) *Plan {
	t.Helper()
	cfg := PlanConfig{
		Instance: "prod", Database: "the database", DB: p.f.Open(t, p.location), Receipt: n8ndbtest.Receipt(t),
		Old: Key{Key: p.f.Key, Path: "/etc/n8n.key", Fingerprint: oldFP}, New: Key{Key: planKey(t, strongKey), Fingerprint: newFP},
		Storage: p.seeded.BundleDir,
		Sources: []KeySource{{Source: "config", Where: "/root/.n8n/config", Key: p.f.Key, Changed: true}},
	}
	if change != nil {
		change(&cfg)
	}
	out, err := MakePlan(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{p.f.Key.Reveal(), strongKey, p.f.Key.SigningJWT(), p.f.Key.SigningHMAC()} {
		if strings.Contains(string(document), secret) {
			t.Error("the plan shows a key")
		}
	}
	return out
}

func wantRefusal(t *testing.T, p *Plan, code, message, hint string) {
	t.Helper()
	for _, r := range p.Refusals {
		if r.Code == code && r.Message == message {
			if r.Hint != hint {
				t.Errorf("%s: hint %q, want %q", code, r.Hint, hint)
			}
			return
		}
	}
	t.Errorf("%q: not refused with %q: %+v", code, message, p.Refusals)
}

func wantText(t *testing.T, list []string, want string) {
	t.Helper()
	if !slices.Contains(list, want) {
		t.Errorf("%q is not in\n%s", want, strings.Join(list, "\n"))
	}
}

func TestPlan(t *testing.T) {
	const byEnvironment, byRows = "environment environment environment cannot", "rows rows rows rows cannot"
	for name, derived := range map[string]string{
		"1.123.81-sqlite": byEnvironment, "2.0.3-sqlite": byEnvironment,
		"2.38.7-sqlite": byRows, "2.38.7-sqlite-keyrotation": byRows,
		"2.41.1-sqlite": byRows, "2.41.1-sqlite-extra": byRows, "2.41.1-sqlite-keyrotation": byRows, "2.41.1-postgres": byRows, "2.41.1-postgres-keyrotation": byRows,
	} {
		t.Run(name, func(t *testing.T) {
			f := newPlanned(t, name, false)
			p := f.plan(t, nil)
			if err := p.Refused(); err != nil {
				t.Fatal(err)
			}
			prefixed := int64(0)
			keys := map[string]bool{}
			r := n8ndbtest.Census(t, f.f.Open(t, f.location), f.f.Key, n8ndb.CensusConfig{})
			for _, s := range r.Secrets {
				if s.Format == n8ncrypt.Prefixed.String() {
					prefixed++
					keys[s.KeyRef] = true
				}
			}
			if p.Values != r.Census.Values || p.Change != p.Values-prefixed-r.Census.Plain || p.Unopened != 0 || p.Already != 0 || p.JournalBytes < 60000 {
				t.Errorf("%+v, %d are prefixed, census %+v", p, prefixed, r.Census)
			}
			if strings.HasSuffix(name, "keyrotation") && prefixed == 0 {
				t.Error("no value is under a data key")
			}
			var hows []string
			for _, d := range p.Derived {
				hows = append(hows, d.How)
			}
			if got := strings.Join(hows, " "); got != derived {
				t.Errorf("derived %s, want %s", got, derived)
			}
			wantText(t, p.Effects, "1 user with a second factor: nobody is logged out, because a secret keeps its format")
			if d := p.Derived[0]; !strings.Contains(d.Effect, "people stay logged in; 1 API key stays valid") {
				t.Error(d.Effect)
			}
			if diff := cmp.Diff([]PlanSource{{Source: "config", Where: "/root/.n8n/config", Holds: "old", By: "n8keep"}}, p.Sources); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPlanOfEveryPlace: all 24 rows, with executions that wait and that are finished.
func TestPlanOfEveryPlace(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := newPlanned(t, name, true)
			p := f.plan(t, nil)
			if err := p.Refused(); err != nil {
				t.Fatal(err)
			}
			numbers := map[int]bool{}
			for _, pl := range p.Places {
				if pl.Values > 0 {
					numbers[pl.Number] = true
				}
			}
			if len(numbers) != 24 {
				t.Errorf("%d rows of the catalogue", len(numbers))
			}
			if p.LeftBehind != 1 || p.LeftValues != 1 || p.WaitingValues != 3*3+3 || p.Bundles != 1 {
				t.Errorf("left %d executions with %d values; %d values wait; %d files", p.LeftBehind, p.LeftValues, p.WaitingValues, p.Bundles)
			}
			wantText(t, p.Effects, "2 executions are waiting: 12 values in executions that are not finished are encrypted anew, so that they go on afterwards")
			wantText(t, p.Effects, "1 finished execution left under the old key with 1 value: retry of these fails (--executions all takes them along), and the old key is worth keeping for that long")
			wantText(t, p.Effects, "2 executions are running or about to: n8n's stop ends them, so wait for a quiet moment")
			wantText(t, p.Effects, "if this n8n runs in queue mode: let the queue run empty before it stops, and delete its cache in Redis, keys {n8n:cache:}*")
			all := f.plan(t, func(cfg *PlanConfig) { cfg.Choices.Executions = n8ndb.AllExecutions })
			if all.LeftBehind != 0 || all.Change != p.Change+1 || all.Executions != "all" {
				t.Errorf("all executions: %d left, %d change, before %d", all.LeftBehind, all.Change, p.Change)
			}
			queue := f.plan(t, func(cfg *PlanConfig) {
				env := map[string]string{"EXECUTIONS_MODE": "queue", "QUEUE_BULL_PREFIX": "prod", "N8N_REDIS_KEY_PREFIX": "p"}
				cfg.Env = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
			})
			wantText(t, queue.Effects, "queue mode: stop what starts executions, let the queue run empty (prod:jobs:wait and prod:jobs:active in Redis), then stop main, workers and webhook processors; a job from before would carry secrets under the old key")
			wantText(t, queue.Effects, "Redis holds a cache with secrets under the old key for up to an hour: delete the keys {p:cache:}* before n8n starts again; sessions are not in it")
		})
	}
}

// TestChangesIsWhatSealingDoes keeps the plan's count and the engine together.
func TestChangesIsWhatSealingDoes(t *testing.T) {
	for _, name := range []string{"1.123.81-sqlite", "2.38.7-sqlite-keyrotation", "seeded"} {
		for _, leak := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s leak=%t", name, leak), func(t *testing.T) {
				fixture := strings.Replace(name, "seeded", "2.41.1-sqlite", 1)
				f := newPlanned(t, fixture, name == "seeded")
				if name == "seeded" { // what another rotation has done already
					done, err := planKey(t, strongKey).EncryptCBC([]byte(`{"a":1}`))
					if err != nil {
						t.Fatal(err)
					}
					f.exec(t, `UPDATE credentials_entity SET data = $1 WHERE id = 'labSmtp000000001'`, done.String())
				}
				db := f.f.Open(t, f.location)
				version, err := db.Version(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				s := &sealing{to: planKey(t, strongKey), version: version, leak: leak}
				if leak && !version.Before(2, 39) {
					if s.data, err = n8ncrypt.NewDataKey(n8ncrypt.NewKeyID()); err != nil {
						t.Fatal(err)
					}
				}
				receipt := n8ndbtest.Receipt(t)
				keys, err := db.KeysetOf(context.Background(), receipt, f.f.Key, n8ndb.OtherKey{Name: otherKey, Key: s.to})
				if err != nil {
					t.Fatal(err)
				}
				var plaintext []byte
				values, changed := 0, 0
				_, err = db.Census(context.Background(), n8ndb.CensusConfig{Keys: keys, Receipt: receipt, Executions: n8ndb.AllExecutions, BundleDir: f.seeded.BundleDir,
					Digest: func(_, _ string, b []byte) string { plaintext = slices.Clone(b); return "" },
					Visit: func(v n8ndb.Secret) error {
						place, _ := n8ndb.Catalogued(v.Place)
						_, want, err := s.seal(place, v, plaintext)
						plaintext = nil
						if err != nil {
							return err
						}
						if got := changes(place, v, leak, version); got != want {
							t.Errorf("%s row %q (%s under %q, plain %t): the plan says %t, the engine %t", v.Place, v.Row, v.Format, v.KeyRef, v.Plain, got, want)
						}
						values++
						if want {
							changed++
						}
						return nil
					}})
				if err != nil || values == 0 || changed == 0 {
					t.Errorf("%d values, %d changed, %v", values, changed, err)
				}
			})
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	const fixture = "2.41.1-sqlite"
	sourceHint := "give n8n the new key there when it is started: name the command that does with --start-command, or say --i-will-set-the-key"
	cbc := func(t *testing.T, key n8ncrypt.InstanceKey, plaintext string) string {
		v, err := key.EncryptCBC([]byte(plaintext))
		if err != nil {
			t.Fatal(err)
		}
		return v.String()
	}
	for name, c := range map[string]struct {
		seed                bool
		prepare             func(*testing.T, *planned)
		change              func(*PlanConfig)
		code, message, hint string
		kind                problem.Kind
		also                func(*testing.T, *Plan)
		part                func(*Plan, PlanConfig) // instead of a whole plan
	}{
		"a value of an unknown key": {
			prepare: func(t *testing.T, f *planned) {
				f.exec(t, `UPDATE credentials_entity SET data = $1 WHERE id = 'labSmtp000000001'`, cbc(t, planKey(t, "a key that nobody has"), `{"a":1}`))
			},
			code: "values-unopened", message: `1 value opens under no known key, credentials_entity.data row "labSmtp000000001" among them (wrong key)`,
			hint: "look for their key among old ones with \"n8keep key find --candidate FILE\", or delete what nobody needs in n8n\n" +
				"or leave exactly these as they are with --quarantine: they stay unreadable",
			also: func(t *testing.T, p *Plan) {
				if p.Unopened != 1 || len(p.Failures) != 1 || p.Failures[0].Row != "labSmtp000000001" {
					t.Errorf("%d unopened: %+v", p.Unopened, p.Failures)
				}
			},
		},
		"an unlisted place": {
			prepare: func(t *testing.T, f *planned) {
				f.exec(t, `INSERT INTO variables (id, key, type, value) VALUES ('v1', 'stray', 'string', $1)`, cbc(t, f.f.Key, "a stray secret"))
			},
			code: "values-unlisted", message: `variables.value is no place that n8keep knows and holds 1 value under a known key, in row "v1"`,
			hint: "report it, please: n8keep has to learn this place\nor, if nobody needs these values, leave them under the old key with --accept-unlisted variables.value",
		},
		"the wrong old key": {
			change: func(cfg *PlanConfig) { cfg.Old.Key = n8ncryptKey("another-instance-key-of-another-n8n") },
			code:   "old-key", message: "instance key " + string(oldFP) + " opens none of 32 encrypted values", kind: problem.WrongKey,
			hint: `find the right one with "n8keep key find --candidate FILE", and give it with --key-file FILE`,
		},
		"a new key that cannot be read": {
			part: func(p *Plan, cfg PlanConfig) { p.newKey(cfg, n8ndb.Version{N8N: "2.41.1"}) },
			change: func(cfg *PlanConfig) {
				cfg.New.Key, cfg.NewProblem = n8ncrypt.InstanceKey{}, problem.New(problem.NotFound, `the key file "new.key" does not exist`).WithHint("name another one")
			},
			code: "new-key-unreadable", message: `the new key cannot be read: the key file "new.key" does not exist`, hint: "name another one",
		},
		"a new key that cannot be read, without a hint": {
			part:   func(p *Plan, cfg PlanConfig) { p.newKey(cfg, n8ndb.Version{N8N: "2.41.1"}) },
			change: func(cfg *PlanConfig) { cfg.New.Key, cfg.NewProblem = n8ncrypt.InstanceKey{}, errors.New("no") },
			code:   "new-key-unreadable", message: `the new key cannot be read: no`, hint: makeKey,
		},
		"the same key": {
			part:   func(p *Plan, cfg PlanConfig) { p.newKey(cfg, n8ndb.Version{N8N: "2.41.1"}) },
			change: func(cfg *PlanConfig) { cfg.New.Key = cfg.Old.Key },
			code:   "new-key-same", message: "the new key is the old one", hint: makeKey,
		},
		"a key of before, after a leak": {
			part: func(p *Plan, cfg PlanConfig) { p.newKey(cfg, n8ndb.Version{N8N: "2.41.1"}) },
			change: func(cfg *PlanConfig) {
				cfg.Choices.AfterLeak, cfg.Others = true, []n8ndb.OtherKey{{Name: "retired 2025", Key: cfg.New.Key}}
			},
			code: "new-key-retired", message: "the new key is one that this n8n had before (retired 2025)", hint: makeKey,
		},
		"the key in a place that we cannot change": {
			part: (*Plan).sources,
			change: func(cfg *PlanConfig) {
				cfg.Sources = append(cfg.Sources, KeySource{Source: "compose file", Where: "/srv/compose.yaml", Key: cfg.Old.Key, Do: "set N8N_ENCRYPTION_KEY of the service n8n"})
			},
			code: "key-source", message: "n8n's key is set in compose file (/srv/compose.yaml), which n8keep cannot change: n8n would start with the old one",
			hint: sourceHint + "\nthe change: set N8N_ENCRYPTION_KEY of the service n8n",
			also: func(t *testing.T, p *Plan) {
				if s := p.Sources[0]; s.By != "user" || s.Holds != "old" || s.Do == "" {
					t.Errorf("%+v", s)
				}
			},
		},
		"the key behind a reference": {
			part:   (*Plan).sources,
			change: func(cfg *PlanConfig) { cfg.Sources = []KeySource{{Source: "N8N_ENCRYPTION_KEY"}} },
			code:   "key-source", message: "n8n's key is set in N8N_ENCRYPTION_KEY, which n8keep cannot change: n8n would start with the old one", hint: sourceHint,
		},
		"no place of the key": {
			part:   (*Plan).sources,
			change: func(cfg *PlanConfig) { cfg.Sources = nil },
			code:   "key-source-unknown", message: "no place is known in which n8n's key is set: n8n would start with the old one",
			hint: "name n8n's folder with --n8n-dir DIR\nor, if the key comes from elsewhere, the command that starts n8n with the new one (--start-command), or say --i-will-set-the-key",
		},
		"executions elsewhere that wait": {
			seed: true,
			prepare: func(t *testing.T, f *planned) {
				f.exec(t, `UPDATE execution_entity SET "storedAt" = 's3' WHERE id = 9003`)
			},
			code: "executions-elsewhere", message: "1 execution is not finished and kept in S3 or Azure, where n8keep does not change them: resuming would fail",
			hint: "let them end, or stop them in n8n, and try again",
		},
		"executions elsewhere, all": {
			seed: true,
			prepare: func(t *testing.T, f *planned) {
				f.exec(t, `UPDATE execution_entity SET "storedAt" = 'az' WHERE id = 9004`)
			},
			change: func(cfg *PlanConfig) { cfg.Choices.Executions = n8ndb.AllExecutions },
			code:   "executions-elsewhere", message: "1 execution is kept in S3 or Azure, where n8keep does not change them",
			hint: "leave finished executions under the old key with --executions waiting",
		},
		"executions in files that nobody knows": {
			seed:   true,
			change: func(cfg *PlanConfig) { cfg.Storage = "" },
			code:   "storage-missing", message: "1 execution is kept in files, and no storage folder is known: they would keep the old key", kind: problem.NotFound,
			hint: "mount it, or name n8n's folder, in which \"storage\" is, with --n8n-dir DIR",
		},
		"executions in a folder that is not mounted": {
			seed:   true,
			change: func(cfg *PlanConfig) { cfg.Storage = "/nowhere/storage" },
			code:   "storage-missing", message: `1 execution is kept in files, and the storage folder "/nowhere/storage" is not there, or has none: they would keep the old key`, kind: problem.NotFound,
			hint: "mount it, or name n8n's folder, in which \"storage\" is, with --n8n-dir DIR",
		},
		"finished executions in a folder that is not mounted": {
			prepare: func(t *testing.T, f *planned) {
				f.exec(t, `UPDATE execution_entity SET "storedAt" = 'fs' WHERE id = (SELECT min(id) FROM execution_entity WHERE finished)`)
			},
			change: func(cfg *PlanConfig) { cfg.Storage, cfg.Choices.Executions = "", n8ndb.AllExecutions },
			code:   "storage-missing", message: "1 execution is kept in files, and no storage folder is known: they would keep the old key", kind: problem.NotFound,
			hint: "mount it, or name n8n's folder, in which \"storage\" is, with --n8n-dir DIR",
		},
		"executions whose files are gone": {
			seed: true,
			prepare: func(t *testing.T, f *planned) {
				dir := filepath.Join(f.seeded.BundleDir, executionsFolder)
				if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
					t.Fatal(err)
				}
			},
			code: "executions-missing", message: "1 execution is not finished and kept in files that are not found: resuming would fail",
			hint: "name n8n's folder, in which \"storage\" is, with --n8n-dir DIR; or let them end, and try again",
		},
		"no room for the way back": {
			part: func(p *Plan, cfg PlanConfig) {
				p.room(cfg, planFacts{sizes: []n8ndb.ColumnSize{{Rows: 30, Bytes: 100000}}})
			},
			change: func(cfg *PlanConfig) { cfg.StateFree = 1 << 20 },
			code:   "no-room", message: "the state folder needs 17 MiB for the way back and has 1 MiB free", hint: "make room, or choose another folder with --state-dir",
		},
		"no room for the transaction": {
			part: func(p *Plan, cfg PlanConfig) {
				p.room(cfg, planFacts{sizes: []n8ndb.ColumnSize{{Rows: 30, Bytes: 100000}}})
			},
			change: func(cfg *PlanConfig) { cfg.DatabaseFree = 1 << 20 },
			code:   "no-room", message: "the database's folder needs 17 MiB for the transaction and has 1 MiB free", hint: "make room on the disk of the database",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Plan{}
			if c.part != nil {
				cfg := PlanConfig{Old: Key{Key: mustKey("lab-key-of-the-old-n8n")}, New: Key{Key: mustKey(strongKey)}}
				c.change(&cfg)
				p.AfterLeak, p.Engine = cfg.Choices.AfterLeak, n8ndb.SQLite
				c.part(p, cfg)
			} else {
				f := newPlanned(t, fixture, c.seed)
				if c.prepare != nil {
					c.prepare(t, f)
				}
				p = f.plan(t, c.change)
			}
			wantRefusal(t, p, c.code, c.message, c.hint)
			if len(p.Refusals) != 1 {
				t.Errorf("more: %+v", p.Refusals)
			}
			kind := c.kind
			if kind == "" {
				kind = problem.CheckFailed
			}
			if err := p.Refused(); problem.KindOf(err) != kind || err.Error() != c.message || problem.HintOf(err) != c.hint {
				t.Errorf("%v (%s), hint %q", err, problem.KindOf(err), problem.HintOf(err))
			}
			if c.also != nil {
				c.also(t, p)
			}
		})
	}
}

func n8ncryptKey(text string) n8ncrypt.InstanceKey { return mustKey(text) }

func TestPlanOfARotatedDatabase(t *testing.T) {
	f := newPlanned(t, "2.41.1-sqlite", false)
	p := f.plan(t, func(cfg *PlanConfig) { cfg.Old.Key, cfg.New.Key = cfg.New.Key, cfg.Old.Key })
	wantRefusal(t, p, "already-new", "the database is under the new key already: the old one opens nothing, the new one 32 values",
		`look at it with "n8keep census --key-file FILE"; if n8n has the old key in its config, correct it there`)
}

func TestPlanRefusesAllAtOnce(t *testing.T) {
	f := newPlanned(t, "2.0.3-sqlite", false)
	p := f.plan(t, func(cfg *PlanConfig) { cfg.New.Key, cfg.Sources, cfg.StateFree = planKey(t, "short"), nil, 1 })
	err := p.Refused()
	want := "3 reasons against this rotation: the new key has only 5 characters: it could be guessed; the state folder needs 17 MiB for the way back and has 1 MiB free; " +
		"no place is known in which n8n's key is set: n8n would start with the old one"
	if err == nil || err.Error() != want || !strings.HasPrefix(problem.HintOf(err), makeKey+"\nmake room, or choose another folder with --state-dir\nname n8n's folder") {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
}

// TestPlanByChoice: what a flag lets through is said all the same.
func TestPlanByChoice(t *testing.T) {
	f := newPlanned(t, "2.41.1-sqlite", true)
	stray, err := f.f.Key.EncryptCBC([]byte("a stray secret"))
	if err != nil {
		t.Fatal(err)
	}
	alien, err := planKey(t, "a key that nobody has").EncryptCBC([]byte("U2FsdGVk"))
	if err != nil {
		t.Fatal(err)
	}
	f.exec(t, `INSERT INTO variables (id, key, type, value) VALUES ('v1', 'stray', 'string', $1)`, stray.String())
	f.exec(t, `UPDATE workflow_entity SET meta = $1 WHERE name LIKE 'W5%'`, `{"pinned":"`+alien.String()+`","key":"`+f.f.Key.Reveal()+`"}`)
	f.exec(t, `UPDATE deployment_key SET value = 'AVbuin9RMyrAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' WHERE type = 'signing.hmac'`)
	f.exec(t, `UPDATE execution_entity SET "storedAt" = 's3' WHERE id = 9004`)
	f.exec(t, `INSERT INTO execution_entity (id, "workflowId", finished, mode, status, "storedAt") VALUES (9300, 'labWorkflowCli01', $1, 'manual', 'waiting', 'fs')`, false)
	p := f.plan(t, func(cfg *PlanConfig) {
		cfg.Choices.Quarantine, cfg.Choices.AcceptUnlisted = true, []string{"variables.value", "gone.column"}
		cfg.KeySetByUser = true
		cfg.Sources = []KeySource{{Source: "N8N_ENCRYPTION_KEY"}, {Source: "config", Key: planKey(t, "a third key of somebody")}, {Source: "--key", Key: cfg.New.Key}}
		cfg.Others = []n8ndb.OtherKey{{Name: "retired", Key: cfg.New.Key}}
		cfg.StateFree = 16<<20 + f.plan(t, nil).JournalBytes + 1
	})
	if err := p.Refused(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 value opens under no known key: left as it is (--quarantine)",
		`deployment_key[signing.hmac] row "UYXu9e5wsusrRGNo" is one of n8n's own keys and does not open: n8n may refuse to start, with either key`,
		"variables.value holds 1 value under a known key and stays as it is (--accept-unlisted)",
		"workflow_entity.meta holds 1 value that looks like n8n's ciphertext, and no key opens it: left as it is",
		`--accept-unlisted "gone.column": there is nothing that would have to be accepted`,
		`the old key stands in clear in workflow_entity.meta, row "labWorkflowCli01": it stays there`,
		"config holds a key that is neither the old nor the new one",
		"--key holds the new key already: do not start n8n with it before the rotation",
		"1 execution is kept in S3 or Azure and left out: retry of these fails if they hold secrets",
		`1 execution is not finished and kept in files that are not there, such as "9300": n8n cannot resume them either`,
		"the new key is one that this n8n had before (retired)",
	} {
		wantText(t, p.Warnings, want)
	}
	if len(p.Unlisted) != 2 || !p.Unlisted[0].Accepted && !p.Unlisted[1].Accepted {
		t.Errorf("%+v", p.Unlisted)
	}
	if !slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "enough to rotate, but a rollback may need") }) {
		t.Errorf("%q", p.Warnings)
	}
}

func TestPlanOfAnEmptyDatabase(t *testing.T) {
	f := newPlanned(t, "2.0.3-sqlite", false)
	f.exec(t, `DELETE FROM credentials_entity`)
	f.exec(t, `UPDATE "user" SET "mfaSecret" = NULL, "mfaRecoveryCodes" = NULL`)
	f.exec(t, `DELETE FROM settings`)
	p := f.plan(t, nil)
	if err := p.Refused(); err != nil || p.Change != 0 {
		t.Errorf("%v, %d", err, p.Change)
	}
	wantText(t, p.Warnings, "there is no encrypted value: nothing proves that the old key is n8n's")
}

// TestPlanWithOlderKeys: values under a retired key are opened with it, and n8n, which
// cannot read them, can afterwards.
func TestPlanWithOlderKeys(t *testing.T) {
	f := newPlanned(t, "2.41.1-sqlite", false)
	older := planKey(t, "the-key-of-the-year-before")
	sealed, err := older.EncryptCBC([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	done, err := planKey(t, strongKey).EncryptCBC([]byte(`{"b":1}`))
	if err != nil {
		t.Fatal(err)
	}
	f.exec(t, `UPDATE credentials_entity SET data = $1 WHERE id = 'labSmtp000000001'`, sealed.String())
	f.exec(t, `UPDATE credentials_entity SET data = $1 WHERE id = 'labEmptyObj00001'`, done.String())
	before := f.plan(t, nil)
	if before.Unopened != 1 || before.Already != 1 {
		t.Errorf("%d unopened, %d already", before.Unopened, before.Already)
	}
	p := f.plan(t, func(cfg *PlanConfig) { cfg.Others = []n8ndb.OtherKey{{Name: "retired 2025", Key: older}} })
	if err := p.Refused(); err != nil {
		t.Fatal(err)
	}
	if p.ByKey["retired 2025"] != 1 || p.Misread != 2 || p.Change != before.Change+1 {
		t.Errorf("%+v", p)
	}
	wantText(t, p.Warnings, "1 value is under the new key already")
	wantText(t, p.Effects, "2 values that n8n cannot read as it is, it can read afterwards")
}

func TestPlanOfWhatCannotBeWritten(t *testing.T) {
	p := &Plan{}
	p.versions(PlanConfig{}, n8ndb.Version{N8N: "2.41.1"}, planFacts{readOnly: []string{"settings", "user"}, standby: true})
	wantRefusal(t, p, "database-read-only", "this user may not update settings, user", "connect as the owner of n8n's tables, or: GRANT UPDATE ON settings, user")
	wantRefusal(t, p, "database-standby", "the server takes no writes: it is a standby", "name the primary with --database")
}

// TestPlanOf218: from 2.18 to 2.38 the flag decides what n8n reads.
func TestPlanOf218(t *testing.T) {
	f := newPlanned(t, "2.38.7-sqlite-keyrotation", false)
	off := f.plan(t, func(cfg *PlanConfig) { cfg.KeyRotation = "off" })
	if err := off.Refused(); err != nil {
		t.Fatal(err)
	}
	wantText(t, off.Warnings, "14 values are under a data key, which this n8n reads only with N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION=true: it is off, so that n8n cannot read them now, and will not afterwards")
	on := f.plan(t, func(cfg *PlanConfig) { cfg.KeyRotation, cfg.Choices.AfterLeak = "on", true })
	if err := on.Refused(); err != nil {
		t.Fatal(err)
	}
	wantText(t, on.Warnings, "with N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION on, n8n goes on writing under a data key that could be read with the leaked key: make a new one with \"n8keep data-key rotate\" as soon as the rotation is finalised, or upgrade to 2.39 or later first")
	wantText(t, on.Effects, "every value is encrypted under the new instance key: this n8n reads what is under data keys only with its key rotation on")
	wantText(t, on.Effects, "the data key that n8n has now stays its active one: wherever N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION is on, n8n goes on encrypting with it, and whoever has the old key and a copy of this database reads that; so make a new one once the rotation is finalised, with \"n8keep data-key rotate\"")
	if on.Change != on.Values-1 { // instance.id
		t.Errorf("%d of %d change", on.Change, on.Values)
	}
	f.exec(t, `DELETE FROM deployment_key WHERE algorithm = 'aes-256-cbc'`)
	f.exec(t, `UPDATE instance_version_history SET minor = 37`)
	f.exec(t, `UPDATE deployment_key SET value = $1 WHERE id = 'GcrXwmctz6SN7l5Y'`, strings.Repeat("ab", 32))
	p := f.plan(t, func(cfg *PlanConfig) { cfg.Choices.AfterLeak, cfg.Choices.Quarantine = true, true })
	wantRefusal(t, p, "after-leak-legacy-row", "this n8n reads values under the instance key through a row that its database does not have, as long as N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION is on",
		"upgrade n8n to 2.39 or later and rotate then; or rotate with N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION off")
	wantText(t, p.Warnings, "1 data key is in clear in the database, as n8n 2.18 stored it: a new instance key protects nothing that is under it")
}

func TestMakePlanNeeds(t *testing.T) {
	f := newPlanned(t, "2.0.3-sqlite", false)
	db, receipt, key := f.f.Open(t, f.location), n8ndbtest.Receipt(t), Key{Key: f.f.Key}
	for want, cfg := range map[string]PlanConfig{
		"a plan needs a database and a command that is recorded":                            {DB: db, Old: key, New: key},
		"a rotation needs the instance key that n8n has now | give it with --key-file FILE": {DB: db, Receipt: receipt, New: key},
		"a rotation needs a new instance key | " + makeKey:                                  {DB: db, Receipt: receipt, Old: key},
	} {
		_, err := MakePlan(context.Background(), cfg)
		if got := strings.TrimSuffix(fmt.Sprint(err)+" | "+problem.HintOf(err), " | "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestPlanChangesNothing: the folder of the database is as it was.
func TestPlanChangesNothing(t *testing.T) {
	f := newPlanned(t, "2.41.1-sqlite", true)
	before, err := os.ReadFile(f.location)
	if err != nil {
		t.Fatal(err)
	}
	f.plan(t, func(cfg *PlanConfig) { cfg.Choices.AfterLeak, cfg.Choices.Executions = true, n8ndb.AllExecutions })
	after, err := os.ReadFile(f.location)
	if err != nil || string(before) != string(after) {
		t.Errorf("the database changed, %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(f.location))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "-journal") {
			t.Errorf("%q was left", e.Name())
		}
	}
}
