package rotate

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// versions refuses and warns of what only some versions do.
func (p *Plan) versions(cfg PlanConfig, version n8ndb.Version, f planFacts) {
	if f.standby {
		p.refuse("database-standby", "name the primary with --database", "the server takes no writes: it is a standby")
	}
	if len(f.readOnly) > 0 {
		p.refuse("database-read-only", "connect as the owner of n8n's tables, or: GRANT UPDATE ON "+strings.Join(f.readOnly, ", "),
			"this user may not update %s", strings.Join(f.readOnly, ", "))
	}
	if version.Before(2, 18) || !version.Before(2, 39) {
		return
	}
	// 2.18 to 2.38: there are data keys, and what n8n reads depends on the flag.
	legacy, clear := false, int64(0)
	for _, r := range f.rows {
		if r.Type != "data_encryption" {
			continue
		}
		legacy = legacy || r.Algorithm == string(n8ncrypt.AlgorithmCBC)
		if r.Format == n8ncrypt.RawHex {
			clear++
		}
	}
	if clear > 0 {
		p.warn("%s in clear in the database, as n8n 2.18 stored it: a new instance key protects nothing that is under it", areKeys(clear))
	}
	prefixed := p.prefixed()
	if prefixed > 0 && cfg.KeyRotation == "off" {
		p.warn("%s under a data key, which this n8n reads only with %s=true: it is off, so that n8n cannot read them now, and will not afterwards", are(prefixed), flagVariable)
	}
	if !p.AfterLeak || prefixed == 0 && cfg.KeyRotation != "on" {
		return
	}
	// After a leak they become CBC under the new key, which a 2.37 with the flag on reads through the legacy row only.
	if !legacy && cfg.KeyRotation != "off" && version.Before(2, 38) {
		p.refuse("after-leak-legacy-row", "upgrade n8n to 2.39 or later and rotate then; or rotate with "+flagVariable+" off",
			"this n8n reads values under the instance key through a row that its database does not have, as long as %s is on", flagVariable)
		return
	}
	if cfg.KeyRotation != "off" {
		p.warn("with %s on, n8n goes on writing under a data key that could be read with the leaked key: make a new one with \"n8keep data-key rotate\" as soon as the rotation is finalised, or upgrade to 2.39 or later first", flagVariable)
	}
}

// staysActive reports whether a rotation after a leak leaves a data key active that could be
// read with the old key: from 2.39 on it makes a new one itself.
func staysActive(version n8ndb.Version, rows []n8ndb.KeyRow) bool {
	return version.Before(2, 39) && slices.ContainsFunc(rows, func(r n8ndb.KeyRow) bool {
		return r.Type == "data_encryption" && r.Algorithm != string(n8ncrypt.AlgorithmCBC) && r.Status == "active"
	})
}

// flagVariable switches n8n's key rotation.
const flagVariable = "N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION"

func areKeys(n int64) string {
	if n == 1 {
		return "1 data key is"
	}
	return fmt.Sprintf("%d data keys are", n)
}

// prefixed counts values under data keys.
func (p *Plan) prefixed() (n int64) {
	dataKeys := map[string]bool{}
	for _, place := range p.Places {
		c, ok := n8ndb.Catalogued(place.Place)
		if !ok || c.Encoding != n8ndb.V2 {
			continue
		}
		for key, values := range place.ByKey {
			if isDataKey(key) {
				dataKeys[key] = true
				n += values
			}
		}
	}
	return n
}

// isDataKey tells n8n's ids from the names of other keys. A legacy row's id looks the
// same, and what is under its key counts here, too: from above.
func isDataKey(ref string) bool {
	return ref != n8ndb.KeyInstance && ref != n8ndb.KeyUnknown && ref != otherKey && ref != "" && n8ncrypt.ValidKeyID(ref)
}

// bundles refuses execution data that cannot be reached.
func (p *Plan) bundles(cfg PlanConfig, f planFacts) {
	e := p.Dependents.Executions
	all := cfg.Choices.Executions == n8ndb.AllExecutions
	if !all {
		p.LeftUnseen = e.FinishedOnDisk + e.FinishedElsewhere
	}
	switch elsewhere := e.UnfinishedElsewhere + e.FinishedElsewhere; {
	case e.UnfinishedElsewhere > 0:
		p.refuse("executions-elsewhere", "let them end, or stop them in n8n, and try again",
			"%s not finished and kept in S3 or Azure, where n8keep does not change them: resuming would fail", executionsAre(e.UnfinishedElsewhere))
	case all && elsewhere > 0:
		p.refuse("executions-elsewhere", "leave finished executions under the old key with --executions waiting",
			"%s kept in S3 or Azure, where n8keep does not change them", executionsAre(elsewhere))
	case elsewhere > 0:
		p.warn("%s kept in S3 or Azure and left out: retry of these fails if they hold secrets", executionsAre(elsewhere))
	}
	missing := int64(len(f.bundles.Missing))
	needed := missing
	if all {
		needed += e.FinishedOnDisk
	}
	switch {
	case needed > 0 && !keepsExecutions(cfg.Storage):
		where := "no storage folder is known"
		if cfg.Storage != "" {
			where = fmt.Sprintf("the storage folder %q is not there, or has none", cfg.Storage)
		}
		p.refuse(noStorage, "mount it, or name n8n's folder, in which \"storage\" is, with --n8n-dir DIR", "%s kept in files, and %s: they would keep the old key", executionsAre(needed), where)
	case !all && e.FinishedOnDisk > 0 && !keepsExecutions(cfg.Storage):
		p.warn("%s kept in files, and n8n's storage folder is not there: mount it, or name n8n's folder with --n8n-dir, before you rotate; a rollback has to look into what n8n keeps there meanwhile", executionsAre(e.FinishedOnDisk))
	case missing == 0:
	case len(f.bundles.Files) == 0:
		p.refuse("executions-missing", "name n8n's folder, in which \"storage\" is, with --n8n-dir DIR; or let them end, and try again",
			"%s not finished and kept in files that are not found: resuming would fail", executionsAre(missing))
	default:
		p.warn("%s not finished and kept in files that are not there, such as %q: n8n cannot resume them either", executionsAre(missing), f.bundles.Missing[0])
	}
}

// keepsExecutions reports whether a storage folder is there, and not just the empty
// mount point of one.
func keepsExecutions(storage string) bool {
	info, err := os.Stat(filepath.Join(storage, executionsFolder))
	return storage != "" && err == nil && info.IsDir()
}

func executionsAre(n int64) string {
	if n == 1 {
		return "1 execution is"
	}
	return fmt.Sprintf("%d executions are", n)
}

// room compares what the way back takes with what is free. It is a bound: columns are
// taken whole.
func (p *Plan) room(cfg PlanConfig, f planFacts) {
	const slack = 16 << 20
	var rows, bytes int64
	for _, s := range f.sizes {
		rows, bytes = rows+s.Rows, bytes+s.Bytes
	}
	// What a pre-image has beside the column, then what age adds.
	p.JournalBytes = (bytes+f.bundled+rows*256)*101/100 + 64<<10
	if cfg.StateFree > 0 && cfg.StateFree < p.JournalBytes+slack {
		p.refuse("no-room", "make room, or choose another folder with --state-dir", "the state folder needs %s for the way back and has %s free",
			mebibytes(p.JournalBytes+slack), mebibytes(cfg.StateFree))
	} else if cfg.StateFree > 0 && cfg.StateFree < 2*p.JournalBytes+slack {
		p.warn("the state folder has %s free: enough to rotate, but a rollback may need %s more", mebibytes(cfg.StateFree), mebibytes(p.JournalBytes))
	}
	// Every changed page is written once to the log and once to the database.
	if need := 2*(bytes+f.bundled) + rows*512 + slack; p.Engine == n8ndb.SQLite && cfg.DatabaseFree > 0 && cfg.DatabaseFree < need {
		p.refuse("no-room", "make room on the disk of the database", "the database's folder needs %s for the transaction and has %s free", mebibytes(need), mebibytes(cfg.DatabaseFree))
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

// effects are the sentences about what a rotation means beyond the derived secrets.
// leaking says that a data key stays active that could be read with the old key.
func (p *Plan) effects(cfg PlanConfig, version n8ndb.Version, leaking bool) {
	say := func(format string, args ...any) { p.Effects = append(p.Effects, fmt.Sprintf(format, args...)) }
	d, e := p.Dependents, p.Dependents.Executions
	if p.AfterLeak {
		p.leakEffects(version, leaking, say)
	} else if d.MFAUsers > 0 {
		say("%s with a second factor: nobody is logged out, because a secret keeps its format", counted(d.MFAUsers, "user"))
	}
	if d.OldAPIKeys > 0 {
		say("%s of before n8n 1.66 stay valid: they hang on no key", counted(d.OldAPIKeys, "API key"))
	}
	if p.Misread > 0 {
		say("%s that n8n cannot read as it is, it can read afterwards", values(p.Misread))
	}
	if n := e.Running + e.New; n > 0 {
		say("%s running or about to: n8n's stop ends them, so wait for a quiet moment", executionsAre(n))
	}
	if e.Waiting > 0 {
		what := "they go on"
		if p.WaitingValues > 0 {
			what = fmt.Sprintf("%s in executions that are not finished are encrypted anew, so that they go on", values(p.WaitingValues))
		}
		say("%s waiting: %s afterwards", executionsAre(e.Waiting), what)
	}
	if p.LeftBehind > 0 {
		say("%s left under the old key with %s: retry of these fails (--executions all takes them along), and the old key is worth keeping for that long",
			counted(p.LeftBehind, "finished execution"), values(p.LeftValues))
	}
	if p.LeftKeyed > 0 {
		say("%s left under data keys that could be read with the old key, with %s (--executions all takes them along)", counted(p.LeftKeyed, "finished execution"), values(p.LeftKeyedValues))
	}
	if p.LeftUnseen > 0 {
		say("%s kept in files and not looked into: retry of these fails if they hold secrets", finishedAre(p.LeftUnseen))
	}
	if p.LeftUnread > 0 {
		say("%s older than the newest %d, and were not looked into: retry of those with secrets fails, too, and the old key is worth keeping for them", finishedAre(p.LeftUnread), countedFinished)
	}
	p.redisEffects(cfg, say)
	say("every process of this n8n needs the new key before it starts again: main, workers, webhook processors, and whoever runs its command line")
	say("archives of before the rotation open with the old key: n8keep's keyring keeps it, sealed under the new one, once the rotation is finalised")
}

func finishedAre(n int64) string {
	if n == 1 {
		return "1 finished execution is"
	}
	return fmt.Sprintf("%d finished executions are", n)
}

func (p *Plan) leakEffects(version n8ndb.Version, leaking bool, say func(string, ...any)) {
	switch {
	case !version.Before(2, 39):
		say("every value is encrypted under a new data key, which the new instance key wraps")
	case !version.Before(2, 18):
		say("every value is encrypted under the new instance key: this n8n reads what is under data keys only with its key rotation on")
	default:
		say("every value is encrypted under the new instance key")
	}
	if leaking {
		say("the data key that n8n has now stays its active one: wherever %s is on, n8n goes on encrypting with it, and whoever has the old key and a copy of this database reads that; so make a new one once the rotation is finalised, with \"n8keep data-key rotate\"", flagVariable)
	}
	if p.MFALogouts > 0 {
		say("%s to log in again, whatever becomes of the other sessions", usersHave(p.MFALogouts))
	}
	if n := p.Dependents.OAuthTokens; n > 0 {
		say("clients of n8n's own OAuth server have to ask again for access (%s)", counted(n, "token"))
	}
}

// redisEffects: a queue holds jobs whose secrets are under the old key, a cache likewise.
func (p *Plan) redisEffects(cfg PlanConfig, say func(string, ...any)) {
	get := func(name string) string {
		if cfg.Env == nil {
			return ""
		}
		value, _ := cfg.Env(name)
		return strings.TrimSpace(value)
	}
	prefix := func(name, otherwise string) string {
		if v := get(name); v != "" {
			return v
		}
		return otherwise
	}
	cache := "{" + prefix("N8N_REDIS_KEY_PREFIX", "n8n") + ":" + prefix("N8N_CACHE_REDIS_KEY_PREFIX", "cache") + ":}*"
	queue := get("EXECUTIONS_MODE") == "queue"
	backend := get("N8N_CACHE_BACKEND")
	if !queue && backend != "redis" && get("N8N_MULTI_MAIN_SETUP_ENABLED") != "true" {
		if get("EXECUTIONS_MODE") == "" {
			say("if this n8n runs in queue mode: let the queue run empty before it stops, and delete its cache in Redis, keys %s", cache)
		}
		return
	}
	if queue {
		say("queue mode: stop what starts executions, let the queue run empty (%[1]s:jobs:wait and %[1]s:jobs:active in Redis), then stop main, workers and webhook processors; a job from before would carry secrets under the old key",
			prefix("QUEUE_BULL_PREFIX", "bull"))
	}
	if backend != "memory" {
		say("Redis holds a cache with secrets under the old key for up to an hour: delete the keys %s before n8n starts again; sessions are not in it", cache)
	}
}

func usersHave(n int64) string {
	if n == 1 {
		return "1 user with a second factor has"
	}
	return fmt.Sprintf("%d users with a second factor have", n)
}
