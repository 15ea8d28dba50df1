package n8ndb_test

import (
	"errors"
	"os"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestMidWrite: what a killed writer has left is told from everything else that keeps a
// database from being read.
func TestMidWrite(t *testing.T) {
	path := n8ndbtest.Load(t, "2.0.3-sqlite").Copy(t)
	interrupt(t, path)
	if _, err := n8ndb.OpenSQLite(t.Context(), n8ndb.SQLiteConfig{Path: path}); !errors.Is(err, n8ndb.ErrMidWrite) || problem.KindOf(err) != problem.Usage {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("no database any more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n8ndb.OpenSQLite(t.Context(), n8ndb.SQLiteConfig{Path: path}); err == nil || errors.Is(err, n8ndb.ErrMidWrite) {
		t.Errorf("%v", err)
	}
}
