package config

import (
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

// What somebody meant for a PostgreSQL address is refused without being repeated:
// it may hold a password.
func TestAddressNotUnderstood(t *testing.T) {
	for _, s := range []string{"postgres:planted-pw@127.0.0.1/n8n", "n8n:planted-pw@db.example/n8n", "host=db.example password=planted-pw dbname=n8n",
		"POSTGRES://n8n:planted-pw@db.example/n8n", "postgres://n8n@db.example/n8n?password=planted-pw"} {
		_, err := ParseAddress(s)
		if problem.KindOf(err) != problem.Usage || strings.Contains(err.Error()+problem.HintOf(err), "planted-pw") || !strings.Contains(problem.HintOf(err), "PGPASSFILE") {
			t.Errorf("%s: %v\n%s", s, err, problem.HintOf(err))
		}
	}
	for s, want := range map[string]string{"POSTGRES://n8n@db.example/n8n": "postgres://n8n@db.example/n8n", "/srv/n8n/database.sqlite": "/srv/n8n/database.sqlite", "data.sqlite": "data.sqlite"} {
		if a, err := ParseAddress(s); err != nil || a.String() != want {
			t.Errorf("%s: %q, %v", s, a, err)
		}
	}
}
