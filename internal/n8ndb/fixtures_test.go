package n8ndb_test

import (
	"os"
	"testing"

	"modernc.org/sqlite"

	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(asNobody) != "" { // a child of TestReadOnlyFolder needs no server
		os.Exit(m.Run())
	}
	// As in the program, before anything is locked: other locks of this process would be
	// dropped by whoever closes the file in it.
	if _, err := sqlite.OFDLocking(true); err != nil {
		panic(err)
	}
	os.Exit(pgtest.Main(m))
}

func TestFixtures(t *testing.T) {
	for _, name := range n8ndbtest.Names(t) {
		t.Run(name, func(t *testing.T) { n8ndbtest.Suite(t, n8ndbtest.Load(t, name)) })
	}
}

func TestEveryPlace(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) { n8ndbtest.SuiteSeeded(t, n8ndbtest.Load(t, name)) })
	}
}
