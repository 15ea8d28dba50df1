package app

import "testing"

// TestInstanceFlags: another command about the same n8n gets everything that says which
// one it is.
func TestInstanceFlags(t *testing.T) {
	for want, in := range map[string]*instance{
		`--n8n-dir "/n" --database "/other/database.sqlite" --key-file "/k"`: {dir: "/n", database: "/other/database.sqlite", keyFile: "/k",
			given: InstanceOptions{N8NDir: "/n", Database: "/other/database.sqlite", KeyFile: "/k"}},
		`--n8n-dir "/n" --database "postgres://n8n@db/n8n" --schema "s" --table-prefix "p_"`: {dir: "/n", dsn: "postgres://n8n:secret@db/n8n", address: "postgres://n8n@db/n8n",
			given: InstanceOptions{N8NDir: "/n", Database: "postgres://n8n@db/n8n", Schema: "s", TablePrefix: "p_"}},
		`--instance "prod"`:     {name: "prod", dir: "/n", given: InstanceOptions{Name: "prod"}},
		`--n8n-dir "/found"`:    {name: "prod", dir: "/found"},
		`--database "/db.lite"`: {name: "prod", database: "/db.lite"},
		`--instance prod`:       {name: "prod"},
	} {
		if got := in.flags(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
