package reencrypt

import (
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestAnotherKeyMeanwhile: n8n gets another active data key in the middle of a pass. The next pass takes everything under
// it, and the result names it.
func TestAnotherKeyMeanwhile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			p := copyOf(t, name)
			p.credentials(t, 60)
			db, before := p.open(t), p.activeKey(t)
			made, err := n8ncrypt.NewDataKey(n8ncrypt.NewKeyID())
			if err != nil {
				t.Fatal(err)
			}
			wrapped, err := n8ncrypt.WrapDataKey(p.Key, made)
			if err != nil {
				t.Fatal(err)
			}
			cfg := p.config(t, "active", FlagOn, Runs)
			done := false
			cfg.betweenBatches = func() {
				if done {
					return
				}
				done = true
				_, err := db.Exec(`UPDATE deployment_key SET status = 'inactive' WHERE id = $1`, before.ID)
				if err == nil {
					_, err = db.Exec(`INSERT INTO deployment_key (id, type, value, algorithm, status) VALUES ($1, 'data_encryption', $2, 'aes-256-gcm', 'active')`, made.ID, wrapped)
				}
				if err != nil {
					t.Error(err)
				}
			}
			r := mustRun(t, cfg)
			if r.KeyID != made.ID || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], made.ID) || !r.Converged || len(r.Passes) != 3 {
				t.Errorf("key %q, want %q: %+v", r.KeyID, made.ID, r)
			}
			after := p.contents(t, n8ndb.NoExecutions)
			if len(after.keys) != 1 || after.keys[made.ID] != len(after.plaintexts) {
				t.Errorf("keys afterwards: %v", after.keys)
			}
		})
	}
}
