package reencrypt

import (
	"github.com/n8keep/n8keep/internal/n8ndb"
)

// FlagVariable switches n8n's key rotation.
const FlagVariable = "N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION"

// Flag is whether n8n's key rotation is on.
type Flag string

const (
	FlagUnknown Flag = "unknown"
	FlagOn      Flag = "on"
	FlagOff     Flag = "off"
)

// FlagOf reads the flag from an environment, as n8n does: on is "true" until 2.x, and
// everything but "false" from 3.0. complete says that env is all of n8n's environment:
// only then a missing variable means something. A nil env is unknown.
func FlagOf(env func(name string) (value string, ok bool), complete bool, version n8ndb.Version) Flag {
	if env == nil {
		return FlagUnknown
	}
	value, ok := env(FlagVariable)
	switch {
	case !ok && !complete:
		return FlagUnknown
	case version.Before(3, 0) && value == "true", !version.Before(3, 0) && value != "false":
		return FlagOn
	}
	return FlagOff
}

// State is whether n8n runs.
type State string

const (
	Runs    State = "runs" // or it cannot be ruled out
	Stopped State = "stopped"
)

// Any stands for every value of a column in the table.
const Any = "any"

// Versions of n8n that differ in what they read and write.
const (
	Before218 = "before 2.18"
	From218   = "2.18 to 2.38"
	From239   = "2.39 and later"
)

// Combination is a row of the table. Flag, Running and To may be [Any].
type Combination struct {
	Versions string
	Flag     string // on, off, unknown
	Running  string // runs, stopped
	To       string // key, legacy
	Allowed  bool
	Why      string // of a refusal the reason, else what to know; "" if nothing
	Hint     string // of a refusal: what to do instead
	Here     bool   // it is the one that applies
}

const (
	hintFlag    = "say how n8n is started: --key-rotation-flag on, or off if " + FlagVariable + " is not set to true"
	hintFlagOn  = "set " + FlagVariable + "=true for every n8n process, restart them, and try again"
	hintStop    = "stop every n8n process, workers and webhook processors included, and try again"
	hintStopOff = "set " + FlagVariable + "=false for every n8n process, restart them, and try again; or stop them first"
)

// Table says what is allowed, and why what is refused is refused. The first row that
// fits counts.
func Table() []Combination {
	const (
		unknown = string(FlagUnknown)
		on      = string(FlagOn)
		off     = string(FlagOff)
		runs    = string(Runs)
		stopped = string(Stopped)
		key     = "key"
		legacy  = "legacy"
	)
	return []Combination{
		{Before218, Any, Any, Any, false, "n8n before 2.18 has no data keys: every value is under the instance key, and can be under nothing else",
			"nothing needs to be done; upgrade n8n to 2.39 or later to use data keys", false},
		{From218, unknown, Any, Any, false, "before 2.39 n8n reads values under a data key only with its key rotation flag on, and the flag decides what it writes",
			hintFlag, false},
		{From218, on, runs, key, true, "the flag must stay on: without it this n8n reads none of these values, and its command line (export:credentials --decrypted) cannot read them in any case", "", false},
		{From218, on, stopped, key, true, "start n8n with the flag on: without it this n8n reads none of these values, and its command line (export:credentials --decrypted) cannot read them in any case", "", false},
		{From218, off, Any, key, false, "before 2.39 n8n reads values under a data key only with its key rotation flag on: with the flag off every value would be unreadable for it",
			hintFlagOn + ", or upgrade n8n to 2.39 or later", false},
		{From218, on, runs, legacy, false, "with the flag on n8n goes on saving under its data key, so that the way back would not end",
			hintStop + "; then start n8n with the flag off", false},
		{From218, off, runs, legacy, false, "before 2.39 n8n with the flag off cannot read values under a data key: it shows them empty, and whoever saves one meanwhile replaces it for good",
			hintStop, false},
		{From218, Any, stopped, legacy, true, "start n8n with the flag off: with it on, new values are under its data key again", "", false},
		{From239, unknown, Any, Any, false, "the key rotation flag decides under which key n8n writes, so that it might undo what is done here",
			hintFlag, false},
		{From239, on, Any, key, true, "", "", false},
		{From239, off, runs, key, false, "with the flag off n8n writes under the instance key, so that what it saves would return to it at once",
			hintFlagOn + "; or stop n8n first", false},
		{From239, off, stopped, key, true, "with the flag off n8n reads all values, but what it saves from now on is under the instance key again", "", false},
		{From239, on, runs, legacy, false, "with the flag on n8n goes on saving under its data key, so that the way back would not end",
			hintStopOff, false},
		{From239, on, stopped, legacy, true, "start n8n with the flag off: with it on, new values are under its data key again", "", false},
		{From239, off, Any, legacy, true, "", "", false},
	}
}

// VersionsOf is the column Versions for a database's version.
func VersionsOf(v n8ndb.Version) string {
	switch {
	case v.Before(2, 18):
		return Before218
	case v.Before(2, 39):
		return From218
	}
	return From239
}

// Look returns the table with the row marked that applies, and that row.
func Look(versions string, flag Flag, state State, to Target) ([]Combination, Combination) {
	table := Table()
	fits := func(cell, value string) bool { return cell == Any || cell == value }
	kind := "key"
	if to.Legacy() {
		kind = "legacy"
	}
	for i, c := range table {
		if c.Versions == versions && fits(c.Flag, string(flag)) && fits(c.Running, string(state)) && fits(c.To, kind) {
			table[i].Here = true
			return table, table[i]
		}
	}
	// Not to be met: a test walks through every combination.
	return table, Combination{Versions: versions, Flag: string(flag), Running: string(state), To: kind, Why: "this combination is not known"}
}

// workersBlind: in 2.18 to 2.21 only the main process can read data keys.
func workersBlind(v n8ndb.Version) bool { return !v.Before(2, 18) && v.Before(2, 22) }
