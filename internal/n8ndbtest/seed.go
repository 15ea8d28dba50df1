package n8ndbtest

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // driver pgx
	_ "modernc.org/sqlite"             // driver sqlite

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Secret is a value that a seed wrote.
type Secret struct {
	Place     n8ndb.PlaceID
	Row       string
	Plaintext string // "" for rows in clear
	KeyRef    string
	Stored    string
}

// Seeded is what Seed wrote.
type Seeded struct {
	Secrets []Secret
	// BundleDir holds an execution that is kept on disk.
	BundleDir  string
	DataKeyID  string            // the data key of the prefixed values
	Executions map[string]string // ids by status
}

// Seed adds rows for every place of the catalogue, also of those that only a licence
// or another n8n version fills, to a copy of a 2.41.1 fixture. V2 places get a value
// in CBC and, where they can hold several rows, one under a data key.
func Seed(t testing.TB, f Fixture, location string) Seeded {
	t.Helper()
	return seed(t, f, location).files(t)
}

// CopySeeded is Copy and Seed, in a fraction of the time: the rows are made once for all
// tests of a process.
func (f Fixture) CopySeeded(t testing.TB) (location string, seeded Seeded) {
	t.Helper()
	if f.Engine == n8ndb.Postgres {
		location = pgtest.Prepared(t, filepath.Join(f.Dir, "database.dump"), "seeded", func(dsn string) { keepSeed(f.Name, seed(t, f, dsn)) })
	}
	kept := keptSeed(f.Name)
	if f.Engine == n8ndb.SQLite {
		if kept == nil {
			path := f.Copy(t)
			kept = seed(t, f, path)
			var err error
			if kept.sqlite, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
			keepSeed(f.Name, kept)
		}
		location = writeDatabase(t, kept.sqlite)
	}
	return location, kept.files(t)
}

// Prepare is CopySeeded, or Copy.
func (f Fixture) Prepare(t testing.TB, seed bool) (location string, seeded Seeded) {
	t.Helper()
	if seed {
		return f.CopySeeded(t)
	}
	return f.Copy(t), Seeded{}
}

// files puts the bundle into a folder of the test, which gets maps and slices of its own.
func (s *seeder) files(t testing.TB) Seeded {
	t.Helper()
	out := s.out
	out.Secrets, out.Executions = slices.Clone(out.Secrets), maps.Clone(out.Executions)
	out.BundleDir = t.TempDir()
	file := filepath.Join(out.BundleDir, filepath.FromSlash(bundleFile))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, s.bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// seeds are those of this process by the names of the fixtures.
var seeds struct {
	sync.Mutex
	by map[string]*seeder
}

func keptSeed(name string) *seeder {
	seeds.Lock()
	defer seeds.Unlock()
	return seeds.by[name]
}

func keepSeed(name string, s *seeder) {
	seeds.Lock()
	defer seeds.Unlock()
	if seeds.by == nil {
		seeds.by = map[string]*seeder{}
	}
	seeds.by[name] = s
}

func seed(t testing.TB, f Fixture, location string) *seeder {
	t.Helper()
	s := &seeder{t: t, f: f}
	s.out.Executions = map[string]string{}
	driver, dsn := f.driver(location)
	var err error
	s.db, err = sql.Open(driver, dsn)
	s.check(err)
	s.key()
	s.settings()
	s.tables()
	s.executions()
	s.bundled()
	s.check(s.db.Close())
	return s
}

type seeder struct {
	t      testing.TB
	f      Fixture
	db     *sql.DB
	data   n8ncrypt.DataKey
	out    Seeded
	n      int
	sqlite []byte
	bundle []byte // of bundleFile
}

// Exec runs a statement with write access on the copy; placeholders are written $1.
func (f Fixture) Exec(t testing.TB, location, stmt string, args ...any) {
	t.Helper()
	driver, dsn := f.driver(location)
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f.exec(t, db, stmt, args...)
}

func (f Fixture) driver(location string) (name, dsn string) {
	if f.Engine == n8ndb.SQLite {
		return "sqlite", "file:" + location
	}
	return "pgx", location
}

func (f Fixture) exec(t testing.TB, db *sql.DB, stmt string, args ...any) {
	t.Helper()
	if f.Engine == n8ndb.SQLite {
		stmt = strings.NewReplacer("$1", "?1", "$2", "?2", "$3", "?3", "$4", "?4", "$5", "?5", "$6", "?6").Replace(stmt)
	}
	if _, err := db.Exec(stmt, args...); err != nil {
		t.Fatalf("n8ndbtest: %s: %v", stmt, err)
	}
}

func (s *seeder) exec(stmt string, args ...any) {
	s.t.Helper()
	s.f.exec(s.t, s.db, stmt, args...)
}

// cbc, prefixed and wrap encrypt and note what was written.
func (s *seeder) cbc(place, row, plaintext string) string {
	s.t.Helper()
	v, err := s.f.Key.EncryptCBC([]byte(plaintext))
	s.check(err)
	return s.note(place, row, plaintext, n8ndb.KeyInstance, v.String())
}

func (s *seeder) prefixed(place, row, plaintext string) string {
	s.t.Helper()
	v, err := s.data.Encrypt([]byte(plaintext))
	s.check(err)
	return s.note(place, row, plaintext, s.data.ID, v.String())
}

func (s *seeder) wrap(place, row, plaintext string) string {
	s.t.Helper()
	v, err := s.f.Key.Wrap([]byte(plaintext))
	s.check(err)
	return s.note(place, row, plaintext, n8ndb.KeyInstance, v)
}

func (s *seeder) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *seeder) note(place, row, plaintext, key, stored string) string {
	s.out.Secrets = append(s.out.Secrets, Secret{n8ndb.PlaceID(place), row, plaintext, key, stored})
	return stored
}

// Plaintexts of every shape.
const (
	PEM    = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"
	Base32 = "GO4622QRHYZ46GC5BZR6NYO2C3JJEK3V"
	UUID   = "ee50dac2-e7eb-408e-a679-2bec71c993db"
)

func (s *seeder) key() {
	id := "seedDataKey00001"
	var err error
	s.data, err = n8ncrypt.NewDataKey(id)
	s.check(err)
	s.out.DataKeyID = id
	insert := `INSERT INTO deployment_key (id, type, value, algorithm, status) VALUES ($1, $2, $3, $4, 'inactive')`
	const gcm = "deployment_key[data_encryption/aes-256-gcm]"
	s.exec(insert, id, "data_encryption", s.wrap(gcm, id, s.data.Reveal()), "aes-256-gcm")
	s.exec(insert, "seedDataKeyCBC01", "data_encryption", s.cbc(gcm, "seedDataKeyCBC01", strings.Repeat("ab", 32)), "aes-256-gcm")
	s.exec(insert, "seedDataKeyRaw01", "data_encryption", s.note(gcm, "seedDataKeyRaw01", "", "", strings.Repeat("cd", 32)), "aes-256-gcm")
	s.exec(insert, "seedLegacyCopy01", "data_encryption", s.wrap("deployment_key[data_encryption/aes-256-cbc]", "seedLegacyCopy01", s.f.Key.Reveal()), "aes-256-cbc")
	s.exec(insert, "seedPinnedClear1", "signing.jwt", s.note("deployment_key[signing.jwt]", "seedPinnedClear1", "", "", strings.Repeat("ef", 32)), nil)
	s.exec(insert, "seedJWE000000001", "jwe.private-key", s.cbc("deployment_key[jwe.private-key]", "seedJWE000000001", `{"kty":"RSA","d":"x"}`), "RSA-OAEP-256")
	s.exec(insert, "seedJWE000000002", "jwe.private-key", s.wrap("deployment_key[jwe.private-key]", "seedJWE000000002", `{"kty":"RSA","d":"y"}`), "RSA-OAEP-256")
	s.exec(insert, "seedOAuthServer1", "oauth-server.signing-key", s.wrap("deployment_key[oauth-server.signing-key]", "seedOAuthServer1", `{"kty":"EC","d":"z"}`), "ES256")
}

func (s *seeder) setting(key, value string) {
	s.exec(`DELETE FROM settings WHERE key = $1`, key)
	s.exec(`INSERT INTO settings (key, value, "loadOnStartup") VALUES ($1, $2, true)`, key, value)
}

// member stores members in a JSON settings row beside others that are no secrets.
func (s *seeder) member(key string, values map[string]string) {
	doc := map[string]any{"loginEnabled": false, "label": "a \"quoted\" ü text"}
	for name, plaintext := range values {
		if s.n++; s.n%2 == 0 {
			doc[name] = s.prefixed("settings["+key+"]."+name, key, plaintext)
		} else {
			doc[name] = s.cbc("settings["+key+"]."+name, key, plaintext)
		}
	}
	s.setting(key, string(plainJSON(doc)))
}

func (s *seeder) settings() {
	s.member("features.ldap", map[string]string{"bindingAdminPassword": "ldap-pässword"})
	s.setting("feature.externalSecrets", s.cbc("settings[feature.externalSecrets]", "feature.externalSecrets", `{"vault":{"token":"hvs.x"}}`))
	s.member("features.sourceControl.sshKeys", map[string]string{"encryptedPrivateKey": PEM})
	s.member("features.sourceControl.httpsCredentials", map[string]string{"encryptedUsername": "git-user", "encryptedPassword": "git-password"})
	s.member("features.oidc", map[string]string{"clientSecret": "oidc-secret"})
	s.member("features.saml", map[string]string{"signingPrivateKey": PEM})
	s.setting("credentialsOverwrite", s.cbc("settings[credentialsOverwrite]", "credentialsOverwrite", `{"slackApi":{"token":"o"}}`))
}

func (s *seeder) tables() {
	s.exec(`INSERT INTO secrets_provider_connection (id, "providerKey", type, "encryptedSettings", "isEnabled") VALUES (7, 'vault', 'vault', $1, true)`,
		s.cbc("secrets_provider_connection.encryptedSettings", "7", `{"url":"https://vault"}`))
	s.exec(`INSERT INTO dynamic_credential_resolver (id, name, type, config) VALUES ('resolver0000001', 'r', 'slack', $1)`,
		s.prefixed("dynamic_credential_resolver.config", "resolver0000001", `{}`))
	credential := ""
	for id := range s.f.Credentials {
		if len(id) == 16 && (credential == "" || id < credential) {
			credential = id
		}
	}
	s.exec(`INSERT INTO dynamic_credential_entry (credential_id, subject_id, resolver_id, data) VALUES ($1, 'sub/ject', 'resolver0000001', $2)`,
		credential, s.cbc("dynamic_credential_entry.data", credential+"/sub/ject/resolver0000001", `{"token":"t"}`))
	user := ""
	for id := range s.f.Values {
		if rest, ok := strings.CutPrefix(id, "user.mfaSecret["); ok {
			user = strings.TrimSuffix(rest, "]")
		}
	}
	s.exec(`INSERT INTO dynamic_credential_user_entry ("credentialId", "userId", "resolverId", data) VALUES ($1, $2, 'resolver0000001', $3)`,
		credential, user, s.prefixed("dynamic_credential_user_entry.data", credential+"/"+user+"/resolver0000001", `{"token":"u"}`))
	s.exec(`CREATE TABLE git_connection (id varchar(36) PRIMARY KEY NOT NULL, "encryptedPrivateKey" text, "encryptedUsername" text, "encryptedPassword" text)`)
	s.exec(`INSERT INTO git_connection VALUES ('git1', $1, $2, $3)`,
		s.cbc("git_connection.encryptedPrivateKey", "git1", PEM), s.cbc("git_connection.encryptedUsername", "git1", "u"), s.prefixed("git_connection.encryptedPassword", "git1", "p"))
	s.exec(`INSERT INTO promotion_provider (id, name, type, "authType", config, auth) VALUES ('promo1', 'p', 'git', 'token', '{}', $1)`,
		s.cbc("promotion_provider.auth", "promo1", `{"schemaVersion":1,"username":"a","password":"b"}`))
}

// ExecutionData is execution data whose contexts hold the given ciphertexts, and a
// user's own members of the same names that are none.
func ExecutionData(credentials, artifacts, metadata string) []byte {
	context := map[string]any{"version": 1, "establishedAt": 1795219982965, "source": "manual", "credentials": credentials}
	if artifacts != "" {
		context["secureArtifacts"] = artifacts
	}
	item := map[string]any{"json": map[string]any{"credentials": "a user's word", "text": "line\nwith \"quotes\" and \\ and ü"}}
	if metadata != "" {
		item["encryptedMetadata"] = metadata
	}
	node := map[string]any{"name": "HTTP", "credentials": map[string]any{"httpHeaderAuth": map[string]any{"id": "x", "name": "y"}}}
	return Flatted(map[string]any{
		"version":         1,
		"resultData":      map[string]any{"runData": map[string]any{"HTTP": []any{map[string]any{"startTime": 1, "data": map[string]any{"main": []any{[]any{item}}}}}}},
		"parentExecution": map[string]any{"executionId": "1", "executionContext": map[string]any{"version": 1, "credentials": credentials}},
		"executionData": map[string]any{
			"nodeExecutionStack": []any{map[string]any{"node": node, "data": map[string]any{"main": []any{[]any{item}}}}},
			"runtimeData":        context,
		},
	})
}

func (s *seeder) executions() {
	for i, status := range []string{"new", "running", "waiting", "success"} {
		id := fmt.Sprint(9001 + i)
		s.out.Executions[status] = id
		s.exec(`INSERT INTO execution_entity (id, "workflowId", finished, mode, status) VALUES ($1, 'labWorkflowCli01', $2, 'manual', $3)`, 9001+i, status == "success", status)
		from := len(s.out.Secrets)
		credentials := s.cbc("execution_data.data[credentials]", "", `{"version":1,"identity":"`+status+`"}`)
		artifacts := s.prefixed("execution_data.data[secureArtifacts]", "", `{"version":1,"artifacts":{}}`)
		metadata := s.prefixed("execution_data.data[encryptedMetadata]", "", `{"chat":1}`)
		data := ExecutionData(credentials, artifacts, metadata)
		s.rows(from, id, data)
		s.exec(`INSERT INTO execution_data ("executionId", "workflowData", data) VALUES ($1, '{}', $2)`, 9001+i, string(data))
	}
}

// rows fills in the element numbers, which only the finished JSON tells.
func (s *seeder) rows(from int, id string, data []byte) {
	var elements []json.RawMessage
	if err := json.Unmarshal(data, &elements); err != nil {
		s.t.Fatal(err)
	}
	for i := range s.out.Secrets[from:] {
		secret := &s.out.Secrets[from+i]
		for n, e := range elements {
			if string(e) == `"`+secret.Stored+`"` {
				secret.Row = fmt.Sprintf("%s#%d", id, n)
			}
		}
	}
}

const bundleFile = "workflows/labWorkflowCli01/executions/9100/execution_data/bundle.json"

func (s *seeder) bundled() {
	id := "9100"
	s.out.Executions["on disk"] = id
	s.exec(`INSERT INTO execution_entity (id, "workflowId", finished, mode, status, "storedAt") VALUES (9100, 'labWorkflowCli01', $1, 'manual', 'waiting', 'fs')`, false)
	from := len(s.out.Secrets)
	credentials := s.prefixed("bundle.json[credentials]", "", `{"version":1,"identity":"disk"}`)
	artifacts := s.cbc("bundle.json[secureArtifacts]", "", `{"version":1,"artifacts":{"a":1}}`)
	metadata := s.cbc("bundle.json[encryptedMetadata]", "", `{"chat":2}`)
	data := ExecutionData(credentials, artifacts, metadata)
	s.rows(from, "labWorkflowCli01/executions/"+id, data)
	s.bundle = plainJSON(map[string]any{"data": string(data), "workflowData": map[string]any{"nodes": []any{}}, "workflowVersionId": nil, "version": 1})
}
