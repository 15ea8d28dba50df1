package rotate

import (
	"errors"
	"testing"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// committingBack is a rollback of which nobody knows whether it was committed: it was not.
func (b *base) committingBack(t *testing.T, prepare func(job)) job {
	t.Helper()
	j := b.world(t)
	if prepare != nil {
		j.Leak = true
	}
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(j)
	}
	j.Do = "rollback"
	if _, err := j.with(t, t.Context(), dead("commit 1")); err == nil {
		t.Fatal("nothing failed")
	}
	if journal, err := Open(j.path("state"), testID); err != nil || journal.State != RollbackCommitting {
		t.Fatalf("%+v, %v", journal, err)
	}
	return j
}

// TestPartlyUndone: of a database in the middle of a rollback's commit somebody has put
// back a part. The rest is put back, too.
func TestPartlyUndone(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	const query = `SELECT data FROM credentials_entity WHERE id = 'labSmtp000000001'`
	for _, do := range []string{"rollback", "resume"} {
		j := b.committingBack(t, nil)
		b.exec(t, j, `UPDATE credentials_entity SET data = $1 WHERE id = 'labSmtp000000001'`, b.columnAt(t, b.at, query))
		// It is not a database to start n8n on with the new key, should that fail.
		j.Do = do
		r, err := j.with(t, t.Context(), at("restore-rows 1", func() error { return errors.New("no") }))
		if err == nil || r.Journal.State != RollingBack || r.Journal.From != "" {
			t.Fatalf("%s: %+v, %v", do, r.Journal, err)
		}
		if files(t, j.Dir)["running"] != "" {
			t.Errorf("%s: n8n runs", do)
		}
		b.finish(t, j, do, "a part was put back, "+do)
	}
}

// TestN8NBeforeTheCommitBack: n8n was started by itself, with the new key, before a
// rollback that was killed in its commit goes on. What it has saved and deleted is kept.
func TestN8NBeforeTheCommitBack(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for _, do := range []string{"rollback", "resume"} {
		j := b.committingBack(t, nil)
		v, err := mustKey(newText).EncryptCBC([]byte(`{"token":"refreshed"}`))
		if err != nil {
			t.Fatal(err)
		}
		b.exec(t, j, `UPDATE credentials_entity SET data = $1 WHERE id = 'labSmtp000000001'`, v.String())
		b.exec(t, j, `DELETE FROM credentials_entity WHERE id = (SELECT min(id) FROM credentials_entity WHERE id <> 'labSmtp000000001')`)
		// The database still is that of the new key: n8n runs on with it after a failure.
		j.Do = do
		if r, err := j.with(t, t.Context(), at("restore-rows 1", func() error { return errors.New("no") })); err == nil || r.Journal.State != Verified {
			t.Fatalf("%s: %+v, %v", do, r.Journal, err)
		}
		if got := files(t, j.Dir)["running"]; got != "new" {
			t.Errorf("%s: n8n runs with %q", do, got)
		}
		j.Do = "rollback"
		r, err := j.do()
		if err != nil || r.Journal.State != RolledBack || r.Journal.Undone.Changed != 1 || r.Journal.Undone.Gone != 1 || r.Journal.Undone.Rewritten != 1 || r.Journal.From != "" {
			t.Fatalf("%s: %+v, %+v, %v", do, r.Journal, r.Journal.Undone, err)
		}
		now, err := n8ncrypt.ParseCBC(b.column(t, j, `SELECT data FROM credentials_entity WHERE id = 'labSmtp000000001'`))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := mustKey(j.Old).DecryptCBC(now, n8ncrypt.ShapeJSONObject); err != nil || string(text) != `{"token":"refreshed"}` {
			t.Errorf("%s: %q, %v", do, text, err)
		}
	}
}

// TestCommittedBackAndStarted: the rollback was committed, its files were not given back,
// and n8n has saved something with the new key.
func TestCommittedBackAndStarted(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	if _, err := j.with(t, t.Context(), dead("place-bundle 1")); err == nil {
		t.Fatal("nothing failed")
	}
	v, err := mustKey(newText).EncryptCBC([]byte(`{"late":true}`))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(t, j, `INSERT INTO credentials_entity (id, name, type, data) VALUES ('late00000000001', 'late', 'x', $1)`, v.String())
	// The database has its old values: n8n is not started with the new key.
	r, err := j.with(t, t.Context(), at("restore-rows 1", func() error { return errors.New("no") }))
	if err == nil || r.Journal.State != RollingBack || files(t, j.Dir)["running"] != "" {
		t.Fatalf("%+v, %v", r.Journal, err)
	}
	if r, err := j.do(); err != nil || r.Journal.State != RolledBack || r.Journal.Undone.Rewritten != 1 {
		t.Fatalf("%+v, %v", r.Journal, err)
	}
	b.exec(t, j, `DELETE FROM credentials_entity WHERE id = 'late00000000001'`)
	b.check(t, j, "rolled back")
}

// TestNewDataKeyDeletedBeforeTheCommitBack: the data key that the rotation has made is not
// a column that was written.
func TestNewDataKeyDeletedBeforeTheCommitBack(t *testing.T) {
	b := newPlainBase(t, "2.41.1-sqlite-keyrotation")
	for _, do := range []string{"rollback", "resume"} {
		j := b.committingBack(t, func(j job) {
			journal, err := Open(j.path("state"), testID)
			if err != nil || journal.NewDataKey == "" {
				t.Fatalf("%+v, %v", journal, err)
			}
			b.exec(t, j, `DELETE FROM deployment_key WHERE id = $1`, journal.NewDataKey)
		})
		b.finish(t, j, do, "no data key, "+do)
	}
}
