package app_test

import (
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestDataKeysPostgres: a new data key, everything under it beside somebody who is
// connected, the old one retired, and back to the instance key.
func TestDataKeysPostgres(t *testing.T) {
	d, env, u := pgDesk(t, "")
	password, _ := u.User.Password()
	env["PGPASSWORD"] = password
	ctx := t.Context()
	io := app.InstanceOptions{Name: "prod", Database: withoutPassword(u), KeyFile: filepath.Join(d.dir, "key")}
	guest, err := pgx.Connect(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close(ctx)
	active := func() (id string, doc *api.DataKeys) {
		t.Helper()
		doc, err := d.app().DataKeyList(ctx, io, app.DataKeyOptions{AllExecutions: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range doc.Keys {
			if k.Status == "active" && !k.Legacy {
				id = k.ID
			}
		}
		return id, doc
	}
	first, doc := active()
	values := doc.Legacy
	if first == "" || values == 0 || doc.Engine != "postgres" {
		t.Fatalf("%+v", doc)
	}
	made, err := d.app().DataKeyRotate(ctx, io, app.DataKeyOptions{Confirm: settled})
	if err != nil || made.Previous != first || made.Through != "database" || len(made.Next) != 1 {
		t.Fatalf("%+v %v", made, err)
	}
	if second, _ := active(); second != made.ID {
		t.Errorf("active is %s, made was %s", second, made.ID)
	}

	// Back and forth, and only what n8n could read.
	_, err = d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "legacy", Flag: "on", Confirm: agreed})
	wantProblem(t, err, problem.CheckFailed, "with the flag on n8n goes on saving under its data key")
	_, err = d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "active", Flag: "on", Rate: -1, Confirm: agreed})
	wantProblem(t, err, problem.Usage, "--rate takes a number of rows per second")
	done, err := d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "active", Flag: "on", Executions: "all", Confirm: agreed})
	if err != nil || done.Changed != values || done.Left != 0 || !done.Running {
		t.Fatalf("%+v %v", done, err)
	}
	if _, doc = active(); doc.Legacy != 0 {
		t.Errorf("%d values are left under the instance key", doc.Legacy)
	}
	retired, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: made.ID, Confirm: settled})
	wantProblem(t, err, problem.Usage, "is active")
	if retired == nil || retired.Values != values {
		t.Errorf("%+v", retired)
	}
	if _, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: first, Confirm: settled}); err != nil {
		t.Error(err)
	}
	again, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: first, Confirm: settled})
	if err != nil || len(again.Warnings) == 0 {
		t.Errorf("%+v %v", again, err)
	}
	if done, err = d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "legacy", Flag: "off", Executions: "all", Confirm: agreed}); err != nil || done.Changed != values {
		t.Fatalf("%+v %v", done, err)
	}
	if _, doc = active(); doc.Legacy != values {
		t.Errorf("%d of %d values are back", doc.Legacy, values)
	}
}
