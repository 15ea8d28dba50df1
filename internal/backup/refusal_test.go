package backup_test

import (
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blob/fileblob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func (h *host) sql(statements ...string) {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.cfg.Database)
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	for _, s := range append(statements, "PRAGMA wal_checkpoint(TRUNCATE)") {
		if _, err := db.Exec(s); err != nil {
			h.t.Fatalf("%s: %v", s, err)
		}
	}
}

func (h *host) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.cfg.N8NDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) found(res *backup.Result, code string) []archive.Finding {
	var out []archive.Finding
	for _, f := range res.Findings {
		if f.Code == code {
			out = append(out, f)
		}
	}
	return out
}

func (h *host) verified(res *backup.Result) *backup.Verified {
	h.t.Helper()
	v, err := backup.Verify(h.t.Context(), h.verifyConfig(res.Sidecar.ID, backup.Secrets))
	if err != nil {
		h.t.Fatalf("verification: %v", err)
	}
	return v
}

// TestWorkFolderOfOthers: a work folder may be anybody's; only what is named as
// ours is ever removed.
func TestWorkFolderOfOthers(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	keep := []string{"yarn.lock", "yarn/data", "n8keep-work-notours.lock", "n8keep-work-notours/data"}
	for _, name := range keep {
		path := filepath.Join(h.cfg.WorkDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := backup.Create(t.Context(), h.cfg); err != nil {
		t.Fatal(err)
	}
	for _, name := range keep {
		if _, err := os.Stat(filepath.Join(h.cfg.WorkDir, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestRawDataKeysProveNothing: with data keys in clear (n8n 2.18) every value
// opens without the instance key, so a wrong one must not pass.
func TestRawDataKeysProveNothing(t *testing.T) {
	const fixture = "2.41.1-sqlite-keyrotation"
	h := newHost(t, fixture, "totally-wrong-key-0123456789")
	var doc struct {
		OtherEncrypted struct {
			DeploymentKey []struct{ ID, Type, Algorithm, Plain string } `json:"deployment_key"`
		}
	}
	b, err := os.ReadFile(filepath.Join("../../testdata/fixtures", fixture, "fixture.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	raw := 0
	for _, k := range doc.OtherEncrypted.DeploymentKey {
		if k.Type == "data_encryption" && k.Algorithm == "aes-256-gcm" {
			h.sql("UPDATE deployment_key SET value = '" + k.Plain + "' WHERE id = '" + k.ID + "'")
			raw++
		}
	}
	if raw == 0 {
		t.Fatal("the fixture has no data key")
	}
	h.sql("DELETE FROM deployment_key WHERE type <> 'data_encryption' OR algorithm <> 'aes-256-gcm'",
		"DELETE FROM credentials_entity WHERE data NOT LIKE '%:%'", "UPDATE user SET mfaSecret = NULL, mfaRecoveryCodes = NULL",
		"DELETE FROM settings WHERE value LIKE 'U2FsdGVk%'")
	if _, err := backup.Create(t.Context(), h.cfg); problem.KindOf(err) != problem.WrongKey || !strings.Contains(err.Error(), "opens none") {
		t.Errorf("wrong key: %v", err)
	}
	h.cfg.Unproved = true
	res := h.create()
	if res.Sidecar.State != archive.StateDegraded || !res.Sidecar.Unproved {
		t.Errorf("unproved: %+v", res.Sidecar)
	}
	h.verified(res)
}

func TestOddFiles(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	odd := []string{"custom/back\\slash", "custom/new\nline", "custom/latin\xff", "custom/" + strings.Repeat("long/", 210) + "name"}
	for _, name := range odd {
		h.write(name, "x")
	}
	for name, at := range map[string]time.Time{"custom/1960.js": time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), "custom/2300.js": time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if err := os.Chtimes(h.write(name, "old and new"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	h.write("custom/"+key241+".txt", "a name that is the key")
	res := h.create()
	if n := len(h.found(res, backup.FindingFileSkipped)); n != len(odd) || res.Sidecar.State != archive.StateGood {
		t.Errorf("%d of %d odd files told: %+v", n, len(odd), res.Findings)
	}
	if len(h.found(res, backup.FindingFileKey)) != 1 {
		t.Errorf("the file named as the key: %+v", res.Findings)
	}
	for _, e := range h.verified(res).Manifest.Entries {
		if strings.Contains(e.Name, key241) {
			t.Error("the key is a name in the archive")
		}
	}
}

func TestWorkflowNamesDoNotCollide(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	h.sql("PRAGMA foreign_keys = OFF",
		"UPDATE workflow_entity SET id = 'my.flow' WHERE id = (SELECT id FROM workflow_entity WHERE name LIKE 'W1%')",
		"UPDATE workflow_entity SET id = 'my flow' WHERE id = (SELECT id FROM workflow_entity WHERE name LIKE 'W2%')")
	res := h.create()
	if res.Sidecar.Workflows != 5 {
		t.Errorf("%d workflows", res.Sidecar.Workflows)
	}
	h.verified(res)
}

// TestOtherKnownKeys: a key that n8keep knows of, but was not asked to use, does
// not travel either.
func TestOtherKnownKeys(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	other, err := n8ncrypt.NewInstanceKey("another-known-key-0123456789")
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.OtherKeys = []n8ncrypt.InstanceKey{other}
	h.write("custom/notes.txt", "old key: another-known-key-0123456789")
	if res := h.create(); len(h.found(res, backup.FindingFileKey)) != 1 {
		t.Errorf("findings: %+v", res.Findings)
	}
}

func TestTargetInsideTheFolder(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	store, err := fileblob.New(filepath.Join(h.cfg.N8NDir, "backups"))
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.Stores, h.store, h.cfg.Exclude = []blob.Store{store}, store, []string{filepath.Join(h.cfg.N8NDir, "backups")}
	h.create()
	res := h.create()
	for _, e := range h.verified(res).Manifest.Entries {
		if strings.Contains(e.Name, "backups") {
			t.Errorf("in the archive: %s", e.Name)
		}
	}
	if !strings.Contains(strings.Join(res.Warnings, "\n"), `"backups" lies in n8n's folder`) {
		t.Errorf("warnings: %q", res.Warnings)
	}
}

// TestExecutionsInFiles: the data of a waiting execution is archived and proved
// where n8n keeps it in files; where it is missing, the backup says so.
func TestExecutionsInFiles(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	key, err := n8ncrypt.NewInstanceKey(key241)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.EncryptCBC([]byte(`{"version":1,"identity":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	insert := func(id string) string {
		return "INSERT INTO execution_entity(id, finished, mode, startedAt, status, waitTill, workflowId, storedAt, createdAt) SELECT " + id + ", 0, 'manual', '2026-01-01 00:00:00.000', 'waiting', '2030-01-01 00:00:00.000', id, 'fs', '2026-01-01 00:00:00.000' FROM workflow_entity LIMIT 1"
	}
	h.sql(insert("9001"))
	flatted, err := json.Marshal(`[{"executionData":"1"},{"runtimeData":"2"},{"version":1,"credentials":"3"},"` + sealed.String() + `"]`)
	if err != nil {
		t.Fatal(err)
	}
	h.write("storage/workflows/w1/executions/9001/execution_data/bundle.json", `{"data":`+string(flatted)+`,"workflowData":{},"version":1}`)
	h.write("storage/workflows/w1/executions/1/execution_data/bundle.json", `{"data":"[]"}`) // finished, not wanted
	res := h.create()
	v := h.verified(res)
	bundles := int64(0)
	for _, p := range v.Manifest.Census {
		if strings.HasPrefix(p.Place, "bundle.json") {
			bundles += p.Opened
		}
	}
	if bundles != 1 || res.Sidecar.State != archive.StateGood || v.Opened != res.Sidecar.SecretsOpened {
		t.Errorf("%d values in bundles open, state %s, %d of %d verified", bundles, res.Sidecar.State, v.Opened, res.Sidecar.SecretsOpened)
	}
	names := ""
	for _, e := range v.Manifest.Entries {
		names += e.Name + "\n"
	}
	if !strings.Contains(names, "files/storage/workflows/w1/executions/9001/execution_data/bundle.json") || strings.Contains(names, "executions/1/") {
		t.Errorf("entries:\n%s", names)
	}

	h.sql(insert("9002"), strings.Replace(insert("9003"), "'fs'", "'s3'", 1))
	res = h.create()
	if f := h.found(res, backup.FindingExecutionData); len(f) != 2 || res.Sidecar.State != archive.StateDegraded || !strings.Contains(f[0].Detail, "9002") {
		t.Errorf("missing data: %s %+v", res.Sidecar.State, res.Findings)
	}
}

// TestDamagedDatabase: a backup of a database with a broken page is kept and says so.
func TestDamagedDatabase(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	db, err := sql.Open("sqlite", h.cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	var page, size int64
	err = db.QueryRow("SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = 'workflow_history'").Scan(&page)
	if err == nil {
		err = db.QueryRow("PRAGMA page_size").Scan(&size)
	}
	db.Close()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(h.cfg.Database, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(strings.Repeat("\xee", int(size))), (page-1)*size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	res := h.create()
	if res.Sidecar.State != archive.StateDegraded || len(h.found(res, backup.FindingIntegrity)) == 0 {
		t.Errorf("state %s, findings %+v", res.Sidecar.State, res.Findings)
	}
	h.verified(res)
}

// TestStrangersInTheTarget: whoever may write to the target can neither stop a
// listing nor become "latest".
func TestStrangersInTheTarget(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	mine := h.create().Sidecar
	memory := h.store.(*blobtest.Memory)
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	future := mine
	future.ID = archive.NewID(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), "lab")
	future.Created = future.ID.Time()
	forged, err := archive.SignSidecar(future, stranger)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, content string) {
		t.Helper()
		if _, err := memory.Put(t.Context(), name, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	put(future.ID.SidecarName(), string(forged))
	put(future.ID.ArchiveName(), "x")
	junk := archive.NewID(time.Date(2098, 1, 1, 0, 0, 0, 0, time.UTC), "lab")
	put(junk.SidecarName(), `{"sidecar":{"format":2}}`)
	put(junk.ArchiveName(), "x")
	lone := archive.NewID(time.Date(2097, 1, 1, 0, 0, 0, 0, time.UTC), "lab")
	put(lone.SidecarName(), string(forged))

	list, err := backup.List(t.Context(), memory, h.trust)
	if err != nil || len(list) != 4 {
		t.Fatalf("%d listed, %v", len(list), err)
	}
	for _, l := range list {
		if l.Trusted != (l.ID == mine.ID) || (l.Problem == "") != l.Trusted {
			t.Errorf("%+v", l)
		}
	}
	if got, err := backup.Find(t.Context(), memory, h.trust, "latest", ""); err != nil || got != mine.ID {
		t.Errorf("latest is %q, %v", got, err)
	}
	if _, err := backup.Find(t.Context(), memory, h.trust, "", ""); problem.KindOf(err) != problem.NotFound {
		t.Errorf("the empty id: %v", err)
	}
}
