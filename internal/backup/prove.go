package backup

import (
	"context"
	"fmt"
	"strings"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// prove opens every secret of the catalogue and writes its digest to the
// archive's list. A key that opens none of many ends the backup.
func (t *take) prove(ctx context.Context, w *archive.Writer) error {
	census, err := t.db.Census(ctx, n8ndb.CensusConfig{Keys: t.keys, Receipt: t.Receipt, Executions: n8ndb.Unfinished,
		Digest: t.digester.Sum, Visit: func(s n8ndb.Secret) error { return w.AddSecret(archiveSecret(s)) }})
	if err != nil {
		return err
	}
	t.census = census
	totals := t.totals()
	// What opens through a data key that is stored in clear proves nothing.
	switch {
	case totals.Failed > 0 && census.Proved == 0 && !t.Unproved:
		return problem.New(problem.WrongKey, "the instance key %s opens none of the %s in %q", t.fingerprint, count(totals.Failed, "secret"), t.Instance).
			WithHint("no archive was written; find the right key with \"n8keep key check --n8n-dir %s --key-file FILE\"", t.N8NDir).
			WithHint("to keep a backup that nothing was proved of, add --unproved")
	case totals.Failed > 0 && census.Proved == 0:
		t.find(FindingUnproved, "", "the instance key opens none of %s", count(totals.Failed, "secret"))
	case totals.Failed > 0:
		t.find(FindingSecret, "", "%d of %s do not open with the instance key", totals.Failed, count(totals.Values-totals.Plain, "secret"))
	}
	return nil
}

// integrity checks the private copy as SQLite sees it.
func (t *take) integrity(ctx context.Context) error {
	report, err := n8ndb.CheckIntegrity(ctx, t.copy)
	if err != nil {
		return err
	}
	if len(report.Problems) > 0 {
		t.find(FindingIntegrity, "", "integrity_check: %s", strings.Join(firstOf(report.Problems, 3), "; "))
	}
	if len(report.ForeignKeys) > 0 {
		t.find(FindingForeignKeys, "", "foreign_key_check: %s", strings.Join(firstOf(report.ForeignKeys, 3), "; "))
	}
	return nil
}

// sweep reads every column once more for what must not be there: ciphertext
// outside the catalogue, and the instance key itself.
func (t *take) sweep(ctx context.Context) error {
	found, err := t.db.Census(ctx, n8ndb.CensusConfig{Keys: t.keys, Receipt: t.Receipt, Executions: n8ndb.AllExecutions,
		SkipPlaces: true, Sweep: true, Needle: t.needle, Progress: t.progressRows("looking through every column")})
	if err != nil {
		return err
	}
	for _, u := range found.Unlisted {
		if u.Opened > 0 {
			t.find(FindingUnlisted, u.Table+"."+u.Column, "%s of %d open under a known key, but this place is not in the catalogue", count(u.Opened, "value"), u.Values)
		}
	}
	for _, h := range found.NeedleHits {
		t.find(FindingKeyInside, h.Table+"."+h.Column, "row %s holds the instance key itself: %s", h.Row, keyInsideRepair(h))
	}
	return nil
}

func keyInsideRepair(h n8ndb.NeedleHit) string {
	if strings.HasSuffix(h.Table, "deployment_key") {
		return "n8n 2.18 to 2.40.2 stored it so; n8n 2.39.8 (2.39 line) or 2.40.3 and later repair it at their next start"
	}
	return "remove it there (a workflow, a variable, an execution), or rotate the key"
}

func (t *take) progressRows(phase string) func(string, int64) {
	report := t.Progress.of(phase)
	return func(_ string, rows int64) { report(rows, 0) }
}

type totals struct{ Values, Opened, Failed, Plain int64 }

func (t *take) totals() totals { return sum(t.census) }

func sum(c *n8ndb.Census) (s totals) {
	for _, p := range c.Places {
		s.Values += p.Values
		s.Opened += p.Opened
		s.Failed += p.Failed
		s.Plain += p.Plain
	}
	return s
}

func (t *take) state() archive.State {
	for _, f := range t.findings {
		if Degrades(f.Code) {
			return archive.StateDegraded
		}
	}
	return archive.StateGood
}

func (t *take) unproved() bool {
	for _, f := range t.findings {
		if f.Code == FindingUnproved {
			return true
		}
	}
	return false
}

func archiveSecret(s n8ndb.Secret) archive.Secret {
	return archive.Secret{Place: string(s.Place), Row: s.Row, KeyID: s.KeyRef, Format: s.Format, Opens: s.Opens, Problem: string(s.Problem), Digest: s.Digest}
}

func firstOf(list []string, n int) []string {
	if len(list) > n {
		return append(list[:n:n], fmt.Sprintf("and %d more", len(list)-n))
	}
	return list
}

func count(n int64, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
