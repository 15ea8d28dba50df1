package app

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/rotate"
	"github.com/n8keep/n8keep/internal/service"
	"github.com/n8keep/n8keep/internal/state"
)

// What a journal keeps holds no password, and means the same in every folder and
// without the configuration.
func TestReopening(t *testing.T) {
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	address, err := config.ParseAddress("env:N8N_DATABASE")
	if err != nil {
		t.Fatal(err)
	}
	a := &App{conf: &config.Config{Targets: map[string]config.Target{"s3": {URL: "s3://bucket/x"}, "local": {Path: "/var/b"}}, Recipients: []string{"age1x"}}}
	const dsn = "postgres://n8n:hunter2@db:5432/n8n"
	for name, c := range map[string]struct {
		in   instance
		o    RotateOptions
		want reopening
	}{
		"file":              {instance{database: "n8n/database.sqlite", dir: "n8n"}, RotateOptions{}, reopening{Database: cwd + "/n8n/database.sqlite", N8NDir: cwd + "/n8n", Recipients: []string{"age1x"}}},
		"address":           {instance{dsn: dsn, address: "postgres://n8n@db/n8n", schema: "s"}, RotateOptions{Recipients: []string{"age1y"}}, reopening{Database: "postgres://n8n@db/n8n", Schema: "s", Recipients: []string{"age1y"}}},
		"reference":         {instance{dsn: dsn, address: "file:pg"}, RotateOptions{RecipientFiles: []string{"r"}}, reopening{Database: "file:" + cwd + "/pg", RecipientFiles: []string{cwd + "/r"}}},
		"environment":       {instance{dsn: dsn, fromEnv: true, prefix: "p_"}, RotateOptions{}, reopening{TablePrefix: "p_", Recipients: []string{"age1x"}}},
		"the configuration": {instance{dsn: dsn, conf: config.Instance{Database: address}}, RotateOptions{}, reopening{Database: "env:N8N_DATABASE", Recipients: []string{"age1x"}}},
	} {
		r := &rotating{in: &c.in, spec: service.Spec{StartCommand: "start"}, backup: rotationBackup{targets: []string{"s3", "local", "b", "sftp://h/x"}}}
		b, err := r.reopening(a, c.o)
		if err != nil {
			t.Fatal(err)
		}
		var got reopening
		if err := json.Unmarshal(b, &got); err != nil || strings.Contains(string(b), "hunter2") {
			t.Errorf("%s: %s %v", name, b, err)
		}
		c.want.Service, c.want.Targets = service.Spec{StartCommand: "start"}, []string{"s3://bucket/x", "/var/b", cwd + "/b", "sftp://h/x"}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	want := (&instance{database: filepath.Join(real, "database.sqlite")}).identity()
	if got := (&instance{database: filepath.Join(link, "database.sqlite")}).identity(); got != want || !filepath.IsAbs(got) {
		t.Errorf("%s, want %s", got, want)
	}
	for dsn, want := range map[string]string{
		"postgres://u:p@h/d":                "postgres://h:5432/d",
		"postgres://h:5432/d?sslmode=x":     "postgres://h:5432/d",
		"postgresql:///d?host=/run&port=51": "postgres:///run:51/d",
	} {
		if got := postgresIdentity(dsn, "public", ""); got != want {
			t.Errorf("%s: %s, want %s", dsn, got, want)
		}
	}
	if got := postgresIdentity("postgres://h/d", "s", "p_"); got != "postgres://h:5432/d?prefix=p_&schema=s" {
		t.Error(got)
	}
}

// Which backup a rotation may rest on.
func TestGoodEnough(t *testing.T) {
	for _, c := range []struct {
		state      string
		unproved   bool
		failed     int64
		quarantine bool
		text       string
	}{
		{state: "good"}, {state: "degraded"}, {state: "degraded", failed: 1, quarantine: true},
		{state: "degraded", failed: 1, text: "1 values of the backup do not open"},
		{state: "degraded", unproved: true, text: "the backup proves nothing"},
		{state: "incomplete", text: "the backup proves nothing"},
	} {
		err := (&rotationBackup{quarantine: c.quarantine}).goodEnough(c.state, c.unproved, c.failed)
		if (err == nil) != (c.text == "") || err != nil && (problem.KindOf(err) != problem.CheckFailed || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s := archive.Sidecar{SHA256: "x"}
	at := time.Now()
	look := func(level backup.Level, outcome, sum string, after time.Duration) state.Verification {
		return state.Verification{Level: level.String(), SHA256: sum, Outcome: outcome, Time: at.Add(after)}
	}
	for name, c := range map[string]struct {
		known []state.Verification
		want  bool
	}{
		"never":         {nil, false},
		"deep":          {[]state.Verification{look(backup.Secrets, state.Sound, "x", 0)}, true},
		"deep, quick":   {[]state.Verification{look(backup.Quick, state.Sound, "x", time.Hour), look(backup.Secrets, state.Sound, "x", 0)}, true},
		"quick":         {[]state.Verification{look(backup.Quick, state.Sound, "x", 0)}, false},
		"full":          {[]state.Verification{look(backup.Full, state.Sound, "x", 0)}, false},
		"another":       {[]state.Verification{look(backup.Secrets, state.Sound, "y", 0)}, false},
		"damaged since": {[]state.Verification{look(backup.Quick, state.Damaged, "x", time.Hour), look(backup.Secrets, state.Sound, "x", 0)}, false},
	} {
		if got := proved(c.known, s); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A journal that cannot be read keeps whatever it may be about from being changed, and
// says what to do.
func TestUnreadableJournal(t *testing.T) {
	a := &App{Options: Options{StateDir: t.TempDir()}}
	dir := filepath.Join(a.StateDir, "rotations", "20260801T020000Z-prod-abcdef")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.notRotating(namedFile("/x")); err != nil {
		t.Errorf("a rotation that was killed before it had a journal: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{a.notRotating(namedFile("/x")), a.notRotating(namedServer((&url.URL{Scheme: "postgres", Host: "h", Path: "/d"}).String()))} {
		if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "whether a rotation of this database is under way is not known") ||
			!strings.Contains(problem.HintOf(err), "move its folder out of") {
			t.Errorf("%v / %s", err, problem.HintOf(err))
		}
	}
}

// One journal that cannot be read does not hide the others, and is an error.
func TestRotationsBesideAnUnreadableOne(t *testing.T) {
	a := &App{Options: Options{StateDir: t.TempDir()}}
	for id, text := range map[string]string{"20260801T020000Z-prod-abcdef": "{", "20260802T020000Z-prod-abcdef": `{"format":1,"id":"20260802T020000Z-prod-abcdef","state":"finalised","database":"/x","started":"2026-08-02T02:00:00Z"}`} {
		dir := filepath.Join(a.StateDir, "rotations", id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "journal.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doc, err := a.Rotations(t.Context())
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "20260801T020000Z-prod-abcdef") || doc == nil || len(doc.Rotations) != 1 {
		t.Errorf("%+v, %v", doc, err)
	}
}

func TestHooksOfOptionsAndConfiguration(t *testing.T) {
	in := &instance{conf: config.Instance{StopCommand: "stop", StartCommand: "start", HealthURL: "http://conf"}}
	if d := cmp.Diff(service.Spec{StopCommand: "stop", StartCommand: "start", HealthURL: "http://conf"}, in.spec(HookOptions{}, true)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(service.Spec{Systemd: []string{"n8n"}, HealthURL: "http://flag"}, in.spec(HookOptions{SystemdUnits: []string{"n8n"}, HealthURL: "http://flag"}, false)); d != "" {
		t.Error(d)
	}
	in.conf = config.Instance{ComposeFile: "/c.yaml", ComposeServices: []string{"n8n"}}
	if d := cmp.Diff(service.Spec{Compose: "/c.yaml", ComposeServices: []string{"worker"}, ComposeRecreate: true}, in.spec(HookOptions{ComposeServices: []string{"worker"}}, true)); d != "" {
		t.Error(d)
	}
	err := (&App{}).serve(&rotating{in: in, spec: service.Spec{ComposeServices: []string{"n8n"}}}, resolvedKey{})
	if problem.KindOf(err) != problem.Usage || !strings.Contains(problem.HintOf(err), "--compose FILE") {
		t.Error(err)
	}
}

// The document of a journal says whatever a person needs to go on.
func TestRotationDoc(t *testing.T) {
	at := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	j := &rotate.Journal{ID: "20260801T020000Z-prod-abcdef", Instance: "prod", State: rotate.Applied, Started: at, Left: []rotate.Left{{Place: "credentials_entity.data", Row: "7", Problem: "wrong key"}}, LeftTotal: 1,
		Steps: []rotate.Step{{Name: rotate.StepStop, Begun: at, Ended: at.Add(time.Second), Result: rotate.Done}, {Name: rotate.StepStart, Begun: at.Add(time.Minute)}}}
	doc := rotationDoc(j)
	if doc.Situation == "" || len(doc.Next) != 2 || doc.Steps[0].Seconds != 1 || doc.Steps[1].State != "begun" || doc.Left[0].Row != "7" || doc.Quarantine != 1 || doc.Downtime != 0 {
		t.Errorf("%+v", doc)
	}
	j.State = rotate.RolledBack
	j.Undone = &rotate.Undone{Restored: 3, Gone: 1}
	if doc := rotationDoc(j); doc.Situation != "" || len(doc.Next) != 0 || doc.Rollback.Restored != 3 || doc.Rollback.Gone != 1 {
		t.Errorf("%+v", doc)
	}
}
