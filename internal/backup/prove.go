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
		BundleDir: t.storage, Digest: t.digester.Sum, Visit: func(s n8ndb.Secret) error { return w.AddSecret(archiveSecret(s)) }})
	if err := t.tolerate(err); err != nil {
		return err
	}
	if census == nil {
		return nil // of a damaged database, a part was read
	}
	t.census = census
	tried := census.Opened + census.Failed
	// What opens through a data key that is stored in clear (n8n 2.18) proves nothing.
	if tried > 0 && census.Proved == 0 {
		if !t.Unproved {
			return problem.New(problem.WrongKey, "the instance key %s opens none of the %s in %q", t.fingerprint, count(tried, "secret"), t.Instance).
				WithHint("no archive was written; try another key: \"n8keep key check %s --key-file FILE\"", t.flag()).
				WithHint("to keep a backup that nothing was proved of, add --unproved")
		}
		t.find(FindingUnproved, "", "the instance key opens none of the %s", count(tried, "secret"))
	}
	if census.Failed > 0 && census.Proved > 0 {
		t.find(FindingSecret, "", "%d of %s do not open with the instance key", census.Failed, count(tried, "secret"))
	}
	if census.MisreadTotal > 0 {
		t.find(FindingMisread, string(census.Misread[0].Place), "%s open with the instance key, but n8n reads them with the other one in deployment_key and fails, row %s among them",
			count(census.MisreadTotal, "value"), census.Misread[0].Row)
	}
	return nil
}

// tolerate lets a backup of a database go on that is known to be damaged: a copy
// of what is there is worth more than none. Anything else ends it.
func (t *take) tolerate(err error) error {
	if err == nil || problem.KindOf(err) != problem.Damaged {
		return err
	}
	if <-t.checked; !t.damaged {
		return err
	}
	t.find(FindingIntegrity, "", "%v", err)
	return nil
}

// startIntegrity checks the copy beside everything else; the returned function
// waits for it.
func (t *take) startIntegrity(ctx context.Context) func() error {
	var err error
	t.checked = make(chan struct{})
	if t.dump != nil {
		close(t.checked) // a server's rows are checked by reading each of them
		return func() error { return nil }
	}
	go func() {
		defer close(t.checked)
		err = t.integrity(ctx)
	}()
	return func() error {
		<-t.checked
		return err
	}
}

// integrity checks the private copy as SQLite sees it.
func (t *take) integrity(ctx context.Context) error {
	report, err := n8ndb.CheckIntegrity(ctx, t.copy)
	if err != nil {
		return err
	}
	if len(report.Problems) > 0 {
		t.damaged = true
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
	if err := t.tolerate(err); err != nil {
		return err
	}
	if found != nil {
		t.report(found)
	}
	return nil
}

func (t *take) report(found *n8ndb.Census) {
	for _, u := range found.Unlisted {
		t.find(FindingUnlisted, u.Table+"."+u.Column, "%s look like n8n's ciphertext, %d of them open under a known key; this place is not in the catalogue", count(u.Values, "value"), u.Opened)
	}
	for _, h := range found.NeedleHits {
		t.find(FindingKeyInside, h.Table+"."+h.Column, "row %s holds the instance key itself: %s", h.Row, keyInsideRepair(h))
	}
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

// flag is how a command is told which n8n is meant.
func (t *take) flag() string {
	switch {
	case t.N8NDir != "":
		return "--n8n-dir " + flagValue(t.N8NDir)
	case t.Database != "":
		return "--database " + flagValue(t.Database)
	}
	return "--database postgres://..."
}
