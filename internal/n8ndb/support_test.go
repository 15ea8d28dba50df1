package n8ndb_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func TestDependents(t *testing.T) {
	for name, finished := range map[string]int64{
		"1.123.81-sqlite": 4, "2.0.3-sqlite": 4, "2.38.7-sqlite": 4, "2.38.7-sqlite-keyrotation": 5,
		"2.41.1-sqlite-extra": 4, "2.41.1-postgres": 4, "2.41.1-postgres-keyrotation": 5,
	} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			db := f.Open(t, f.Copy(t))
			got, err := db.Dependents(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			want := n8ndb.Dependents{Users: 1, MFAUsers: 1, APIKeys: 1, Executions: n8ndb.ExecutionCounts{Finished: finished}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDependentsOfEveryKind(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location, _ := f.CopySeeded(t)
			user := f.Values
			if len(user) == 0 {
				t.Fatal("the fixture has no MFA user")
			}
			var id string
			for v := range user {
				if rest, ok := strings.CutPrefix(v, "user.mfaSecret["); ok {
					id = strings.TrimSuffix(rest, "]")
				}
			}
			f.Exec(t, location, `INSERT INTO settings (key, value, "loadOnStartup") VALUES ('license.cert', 'x', $1)`, false)
			f.Exec(t, location, `INSERT INTO user_api_keys (id, "userId", label, "apiKey") VALUES ('old1', $1, 'old', 'n8n_api_0123456789')`, id)
			f.Exec(t, location, `INSERT INTO user_api_keys (id, "userId", label, "apiKey") VALUES ('new1', $1, 'near', 'n8nXapiX0123456789')`, id)
			f.Exec(t, location, `UPDATE execution_entity SET "storedAt" = 's3' WHERE id = 9001`)
			f.Exec(t, location, `UPDATE execution_entity SET "storedAt" = 'az' WHERE id = 9004`)
			f.Exec(t, location, `INSERT INTO execution_entity (id, "workflowId", finished, mode, status, "storedAt") VALUES (9200, 'labWorkflowCli01', $1, 'manual', 'error', 'fs')`, false)
			db := f.Open(t, location)
			got, err := db.Dependents(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			want := n8ndb.Dependents{Users: 1, MFAUsers: 1, APIKeys: 2, OldAPIKeys: 1, Licence: true, Executions: n8ndb.ExecutionCounts{
				New: 1, Running: 1, Waiting: 2, Finished: 6, FinishedOnDisk: 1, FinishedElsewhere: 1, UnfinishedElsewhere: 1}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestKeyRows(t *testing.T) {
	for name, want := range map[string]string{
		"2.0.3-sqlite":                "",
		"2.38.7-sqlite":               "instance.id//active/none signing.binary_data//active/none signing.hmac//active/raw-hex signing.jwt//active/raw-hex",
		"2.41.1-postgres-keyrotation": "",
	} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			rows, err := f.Open(t, f.Copy(t)).KeyRows(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, "2.41") {
				keys := map[string]int{}
				for _, r := range rows {
					keys[fmt.Sprintf("%s/%s/%s/%s", r.Type, r.Algorithm, r.Status, r.Format)]++
				}
				want := map[string]int{"instance.id//active/raw-hex": 1, "data_encryption/aes-256-cbc/inactive/gcm": 1, "data_encryption/aes-256-gcm/active/gcm": 1,
					"data_encryption/aes-256-gcm/inactive/gcm": 1, "signing.binary_data/aes-256-gcm/active/gcm": 1, "signing.hmac/aes-256-gcm/active/gcm": 1, "signing.jwt/aes-256-gcm/active/gcm": 1}
				if diff := cmp.Diff(want, keys); diff != "" {
					t.Error(diff)
				}
				return
			}
			var got []string
			for _, r := range rows {
				got = append(got, fmt.Sprintf("%s/%s/%s/%s", r.Type, r.Algorithm, r.Status, r.Format))
			}
			t.Log(got)
			if len(got) != len(strings.Fields(want)) {
				t.Errorf("%v", got)
			}
		})
	}
}

// TestFinishedValues compares with a census, which opens what this only counts.
func TestFinishedValues(t *testing.T) {
	for _, name := range []string{"1.123.81-sqlite", "2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location, seeded := f.Prepare(t, strings.HasPrefix(name, "2.41"))
			db := f.Open(t, location)
			got, err := db.FinishedValues(ctx, true, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			var want n8ndb.Finished
			finished := map[n8ncrypt.Format]map[string]bool{n8ncrypt.CBC: {}, n8ncrypt.Prefixed: {}}
			r := n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
			for _, s := range r.Secrets {
				id, _, _ := strings.Cut(s.Row, "#")
				if !strings.HasPrefix(string(s.Place), "execution_data") ||
					id == seeded.Executions["new"] || id == seeded.Executions["running"] || id == seeded.Executions["waiting"] {
					continue
				}
				switch s.Format {
				case n8ncrypt.CBC.String():
					finished[n8ncrypt.CBC][id] = true
					want.Values++
				case n8ncrypt.Prefixed.String():
					finished[n8ncrypt.Prefixed][id] = true
					want.KeyedValues++
				}
			}
			want.Executions, want.KeyedExecutions = int64(len(finished[n8ncrypt.CBC])), int64(len(finished[n8ncrypt.Prefixed]))
			if got != want {
				t.Errorf("%+v, a census finds %+v", got, want)
			}
			if len(seeded.Executions) > 0 && (want.Values == 0 || want.KeyedValues == 0) {
				t.Errorf("seeded was %+v", want)
			}
			want.KeyedExecutions, want.KeyedValues = 0, 0
			if got, err := db.FinishedValues(ctx, false, 0, nil); err != nil || got != want {
				t.Errorf("%+v, want %+v, %v", got, want, err)
			}
			// Of the newest only: one by one they come to what all of them are.
			var last n8ndb.Finished
			for newest := 1; newest == 1 || last.Unread > 0; newest++ {
				got, err := db.FinishedValues(ctx, false, newest, nil)
				if err != nil || newest > 1 && (got.Unread != last.Unread-1 || got.Values < last.Values) {
					t.Fatalf("newest %d: %+v after %+v, %v", newest, got, last, err)
				}
				if last = got; newest == 1 && got.Executions > 1 {
					t.Fatalf("newest: %+v", got)
				}
			}
			if last != want {
				t.Errorf("the newest come to %+v, want %+v", last, want)
			}
		})
	}
}

func TestRewriteSize(t *testing.T) {
	for _, name := range []string{"2.0.3-sqlite", "2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location, _ := f.Prepare(t, strings.HasPrefix(name, "2.41"))
			db := f.Open(t, location)
			waiting, err := db.RewriteSize(ctx, n8ndb.Unfinished, false)
			if err != nil {
				t.Fatal(err)
			}
			all, err := db.RewriteSize(ctx, n8ndb.AllExecutions, false)
			if err != nil {
				t.Fatal(err)
			}
			leaked, err := db.RewriteSize(ctx, n8ndb.AllExecutions, true)
			if err != nil {
				t.Fatal(err)
			}
			sum := func(sizes []n8ndb.ColumnSize, column string) (rows, bytes int64) {
				for _, s := range sizes {
					if column == "" || s.Table+"."+s.Column == column {
						rows, bytes = rows+s.Rows, bytes+s.Bytes
					}
				}
				return rows, bytes
			}
			if n, bytes := sum(waiting, "credentials_entity.data"); n != int64(len(f.Credentials)) || bytes < 60000 {
				t.Errorf("%d credentials with %d bytes, want %d", n, bytes, len(f.Credentials))
			}
			if strings.HasPrefix(name, "2.41") {
				a, _ := sum(waiting, "execution_data.data")
				b, _ := sum(all, "execution_data.data")
				c, _ := sum(leaked, "execution_data.data")
				if a != 3 || b != 4 || c < 4 {
					t.Errorf("executions: %d unfinished, %d all, %d after a leak", a, b, c)
				}
				if n, _ := sum(waiting, "settings.value"); n != 6 { // of features.oidc and others only what is CBC
					t.Logf("settings rows: %d", n)
				}
			}
			x, _ := sum(waiting, "")
			y, _ := sum(all, "")
			z, _ := sum(leaked, "")
			if x == 0 || y < x || z < y {
				t.Errorf("%d, %d, %d rows", x, y, z)
			}
			// It is a bound: no row that a census finds to be under an instance key is outside of it.
			rows := map[string]map[string]bool{}
			r := n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
			for _, s := range r.Secrets {
				p, ok := n8ndb.Catalogued(s.Place)
				if !ok {
					t.Fatalf("no place %q", s.Place)
				}
				if s.Opens && (s.Format == "cbc" || s.Format == "gcm") {
					id, _, _ := strings.Cut(s.Row, "#")
					column := p.Table + "." + p.Column
					if rows[column] == nil {
						rows[column] = map[string]bool{}
					}
					rows[column][id] = true
				}
			}
			if len(rows) == 0 {
				t.Fatal("nothing to compare with")
			}
			for column, ids := range rows {
				if n, _ := sum(all, column); n < int64(len(ids)) {
					t.Errorf("%s: %d rows, a census finds %d", column, n, len(ids))
				}
			}
		})
	}
}

func TestUnwritable(t *testing.T) {
	ctx := context.Background()
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	location := f.Copy(t)
	tables, standby, err := f.Open(t, location).Unwritable(ctx)
	if err != nil || len(tables) != 0 || standby {
		t.Errorf("the owner: %v %t %v", tables, standby, err)
	}
	role, password := "reader_h4", "reader"
	f.Exec(t, location, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, role, password))
	t.Cleanup(func() {
		f.Exec(t, location, fmt.Sprintf(`DROP OWNED BY %s; DROP ROLE %s`, role, role))
	})
	f.Exec(t, location, fmt.Sprintf(`GRANT USAGE ON SCHEMA public TO %s; GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s; GRANT UPDATE ON credentials_entity TO %s`, role, role, role))
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	tables, _, err = f.Open(t, u.String()).Unwritable(ctx)
	want := []string{"deployment_key", "dynamic_credential_entry", "dynamic_credential_resolver", "dynamic_credential_user_entry", "execution_data",
		"promotion_provider", "secrets_provider_connection", "settings", "user"}
	if diff := cmp.Diff(want, tables); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	lite := n8ndbtest.Load(t, "2.0.3-sqlite")
	if tables, standby, err := lite.Open(t, lite.Copy(t)).Unwritable(ctx); len(tables) != 0 || standby || err != nil {
		t.Errorf("SQLite: %v %t %v", tables, standby, err)
	}
}

func TestCredentialUses(t *testing.T) {
	for _, name := range []string{"1.123.81-sqlite", "2.0.3-sqlite", "2.38.7-sqlite", "2.41.1-sqlite-extra", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			uses, err := f.Open(t, location).CredentialUses(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(uses) != len(f.Credentials) {
				t.Errorf("%d credentials, want %d", len(uses), len(f.Credentials))
			}
			got := map[string]string{}
			for i, u := range uses {
				if i > 0 && uses[i-1].Type > u.Type {
					t.Error("not by type")
				}
				for _, w := range u.Workflows {
					got[u.Name] += fmt.Sprintf("%.2s %t,", w.Name, w.Active)
				}
			}
			want := map[string]string{"Header auth (echo)": "W1 true,", "Basic auth (echo)": "W2 true,", "Postgres lab": "W3 false,", "Slack bot": "W3 false,",
				"GitHub token": "W3 false,", "Custom auth via public API": "W4 true,", "OAuth2 with tokens": "W4 true,", "Empty-ish": "W5 false,"}
			if name == "2.0.3-sqlite" {
				delete(want, "Empty-ish")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCredentialUsesOfEveryForm: by name as in old workflows, in the published version only, by agents.
func TestCredentialUsesOfEveryForm(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			f.Exec(t, location, `UPDATE workflow_entity SET nodes = '[{"name":"no credentials"},{"credentials":{"smtp":"gone","postgres":{"id":null,"name":"Postgres lab"},"slackApi":"Slack bot","jwtAuth":7}}]' WHERE name LIKE 'W3%'`)
			f.Exec(t, location, `UPDATE workflow_entity SET nodes = '[]' WHERE name LIKE 'W1%'`) // its published version keeps the credential
			f.Exec(t, location, `UPDATE workflow_entity SET nodes = '{"not":"a list"}' WHERE name LIKE 'W5%'`)
			project := `(SELECT id FROM project LIMIT 1)`
			f.Exec(t, location, `INSERT INTO agents (id, name, "projectId", integrations) VALUES ('agent1', 'Ann', `+project+`, '[{"type":"telegram","credentialId":"labSmtp000000001"}]')`)
			f.Exec(t, location, `INSERT INTO agent_credential_dependency ("agentId", "credentialId") VALUES ('agent1', 'labSmtp000000001')`)
			db := f.Open(t, location)
			uses, err := db.CredentialUses(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, u := range uses {
				for _, w := range u.Workflows {
					got[u.Name] += fmt.Sprintf("%.2s %t,", w.Name, w.Active)
				}
				for _, a := range u.Agents {
					got[u.Name] += "agent " + a.ID + " " + a.Name
				}
			}
			want := map[string]string{"Header auth (echo)": "W1 true,", "Basic auth (echo)": "W2 true,", "Postgres lab": "W3 false,", "Slack bot": "W3 false,",
				"Custom auth via public API": "W4 true,", "OAuth2 with tokens": "W4 true,", "SMTP": "agent agent1 Ann"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			d, err := db.Dependents(context.Background())
			if err != nil || d.TelegramAgents != 1 {
				t.Errorf("%d agents on Telegram, %v", d.TelegramAgents, err)
			}
		})
	}
}
