package app_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/app"
)

// TestListsAreLists: a list without anything in it is [] in JSON, and not null.
func TestListsAreLists(t *testing.T) {
	d := newDesk(t, "")
	ctx, io := t.Context(), app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}
	document := func(name string, doc any, err error) {
		t.Helper()
		text, e := json.Marshal(doc)
		if err != nil || e != nil || strings.Contains(string(text), ":null") {
			t.Errorf("%s: %s %v %v", name, text, err, e)
		}
	}
	made, err := d.app().DataKeyRotate(ctx, io, app.DataKeyOptions{Confirm: settled})
	document("data-key rotate", made, err)
	moved, err := d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "active", Flag: "on", Executions: "all", AssumeStopped: true, Confirm: agreed})
	document("reencrypt", moved, err)
	retired, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: made.Previous, Confirm: settled})
	document("data-key retire", retired, err)
	plan, done, err := d.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true,
		Hooks: app.HookOptions{StopCommand: "true", StartCommand: "true"}, Confirm: sure})
	document("the plan of a rotation", plan, err)
	document("rotate instance", done, err)
}
