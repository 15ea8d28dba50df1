package n8ndb_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
)

// TestExportCredentials looks at what a visitor is given, and at what is left of
// it when the visitor has returned.
func TestExportCredentials(t *testing.T) {
	for _, name := range []string{"1.123.81-sqlite", "2.41.1-sqlite-keyrotation", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			db := f.Open(t, f.Copy(t))
			receipt := n8ndbtest.Receipt(t)
			keys, err := db.Keyset(t.Context(), receipt, f.Key)
			if err != nil {
				t.Fatal(err)
			}
			var kept [][]byte
			last := ""
			err = db.ExportCredentials(t.Context(), receipt, keys, func(c n8ndb.PortableCredential) error {
				if !c.Opens || c.Place != "credentials_entity.data" || c.Row <= last {
					t.Errorf("%s after %s: %+v", c.Row, last, c.Secret)
				}
				last = c.Row
				if want := `"data":` + f.Credentials[c.Row] + `,"type":`; !bytes.Contains(c.JSON, []byte(want)) {
					t.Errorf("%s: not as n8n has it", c.Row)
				}
				kept = append(kept, c.JSON)
				return nil
			})
			if err != nil || len(kept) != len(f.Credentials) {
				t.Fatalf("%d of %d credentials: %v", len(kept), len(f.Credentials), err)
			}
			for _, b := range kept {
				if len(bytes.Trim(b, "\x00")) != 0 {
					t.Error("a plaintext was not wiped")
				}
			}

			stop := errors.New("stop")
			calls := 0
			err = db.ExportCredentials(t.Context(), receipt, keys, func(c n8ndb.PortableCredential) error {
				calls++
				kept = append(kept[:0], c.JSON)
				return stop
			})
			if !errors.Is(err, stop) || calls != 1 || len(bytes.Trim(kept[0], "\x00")) != 0 {
				t.Errorf("%d calls, %v", calls, err)
			}
			err = db.ExportCredentials(t.Context(), audit.Receipt{}, keys, func(n8ndb.PortableCredential) error {
				t.Error("a credential was opened without a receipt")
				return nil
			})
			if err == nil || err.Error() != "no secret is opened before the audit event of the command is recorded" {
				t.Error(err)
			}
		})
	}
}

func TestExportWorkflows(t *testing.T) {
	for _, name := range n8ndbtest.Names(t) {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			db := f.Open(t, f.Copy(t))
			var places []n8ndb.WorkflowPlace
			var ids []string
			err := db.ExportWorkflows(t.Context(), func(p []n8ndb.WorkflowPlace) error {
				places = p
				return nil
			}, func(w n8ndb.Workflow) error {
				ids = append(ids, w.ID)
				return nil
			})
			if err != nil || len(places) == 0 || len(places) != len(ids) {
				t.Fatalf("%d places, %d workflows, %v", len(places), len(ids), err)
			}
			for i, p := range places {
				if p.ID != ids[i] || p.Name == "" || p.Project.ID == "" || p.ProjectType != "personal" || len(p.Folders) != 0 {
					t.Errorf("%+v, workflow %s", p, ids[i])
				}
			}
			stop := errors.New("stop")
			err = db.ExportWorkflows(t.Context(), func([]n8ndb.WorkflowPlace) error { return stop }, func(n8ndb.Workflow) error {
				t.Error("a workflow after the plan failed")
				return nil
			})
			if !errors.Is(err, stop) {
				t.Error(err)
			}
		})
	}
}
