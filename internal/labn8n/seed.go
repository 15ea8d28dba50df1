package labn8n

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	email    = "owner@example.test"
	password = "Passw0rd-lab"

	overwritesPath  = "/lab-overwrites"
	overwritesToken = "lab-overwrite-token"
)

// seedEnv makes n8n take credential overwrites over HTTP and keep them, encrypted, in its settings table.
var seedEnv = []string{
	"CREDENTIALS_OVERWRITE_ENDPOINT=" + strings.TrimPrefix(overwritesPath, "/"),
	"CREDENTIALS_OVERWRITE_ENDPOINT_AUTH_TOKEN=" + overwritesToken,
	"CREDENTIALS_OVERWRITE_PERSISTENCE=true",
}

// NewInstance is an instance of the release on an empty folder, with the environment that Seed needs.
func NewInstance(version, folder string) Instance {
	return Instance{Version: version, Folder: folder, Env: seedEnv}
}

// Credential is one of n8n's, with its plaintext data.
type Credential struct {
	ID, Name, Type string
	Data           map[string]any
}

// Facts is what Seed put into an instance: what must be there again after a restore.
type Facts struct {
	Email, Password string
	OwnerID         string
	APIKey          string
	MFASecret       string
	RecoveryCodes   []string
	// Credentials are all of them, in the order of their creation.
	Credentials []Credential
	// Webhook is the path of an active workflow that calls the echo with the credential HeaderAuth.
	Webhook    string
	HeaderAuth Credential
	// Waiting is the id of an execution that waits for a call of Echo.ResumeURL and then calls the echo with HeaderAuth.
	Waiting string
}

// Secrets are all secret strings of the facts, long enough that finding one somewhere is no accident.
func (f *Facts) Secrets() []string {
	all := append([]string{f.APIKey, f.MFASecret, overwriteSecret, oauthSecret}, f.RecoveryCodes...)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			if len(v) >= 12 && !strings.HasPrefix(v, "http") {
				all = append(all, v)
			}
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	for _, c := range f.Credentials {
		walk(c.Data)
	}
	return all
}

const overwriteSecret = "overwrite-secret-ß"

// Seed fills a fresh server through n8n's own interfaces: owner, API key, credentials of many types and shapes, workflows
// made by the editor, the public API and the command line, executions finished and waiting, credential overwrites, and MFA
// for the owner as the last step.
func Seed(t testing.TB, s *Server, echo *Echo) *Facts {
	t.Helper()
	f := &Facts{Email: email, Password: password}
	c := s.Client(t, "")
	var owner data[identified]
	c.must(t, "POST", "/rest/owner/setup", map[string]string{"email": email, "firstName": "Olga", "lastName": "Owner", "password": password}, &owner)
	f.OwnerID = owner.Data.ID
	f.APIKey = c.CreateAPIKey(t, "lab")
	c.apiKey = f.APIKey
	var project data[identified]
	c.must(t, "GET", "/rest/projects/personal", nil, &project)

	seedCredentials(t, s, c, f, project.Data.ID)
	seedWorkflows(t, s, c, f, echo, project.Data.ID)
	c.must(t, "POST", overwritesPath, map[string]any{"googleOAuth2Api": map[string]string{"clientId": "ov-client", "clientSecret": overwriteSecret}}, nil)
	c.enableMFA(t, f)
	return f
}

// CreateAPIKey makes a key with every scope for the user who is logged in.
func (c *Client) CreateAPIKey(t testing.TB, label string) string {
	t.Helper()
	var scopes data[[]string]
	c.must(t, "GET", "/rest/api-keys/scopes", nil, &scopes)
	var key data[struct {
		RawAPIKey string `json:"rawApiKey"`
	}]
	c.must(t, "POST", "/rest/api-keys", map[string]any{"label": label, "scopes": scopes.Data, "expiresAt": nil}, &key)
	if key.Data.RawAPIKey == "" {
		t.Fatal("labn8n: n8n made an empty API key")
	}
	return key.Data.RawAPIKey
}

func (c *Client) enableMFA(t testing.TB, f *Facts) {
	t.Helper()
	c.must(t, "POST", "/rest/mfa/can-enable", nil, nil)
	var qr data[struct {
		Secret        string   `json:"secret"`
		RecoveryCodes []string `json:"recoveryCodes"`
	}]
	c.must(t, "GET", "/rest/mfa/qr", nil, &qr)
	f.MFASecret, f.RecoveryCodes = qr.Data.Secret, qr.Data.RecoveryCodes
	code, err := totp(f.MFASecret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.must(t, "POST", "/rest/mfa/enable", map[string]string{"mfaCode": code}, nil)
	// The session from before MFA is void now: a login without the code must fail, or MFA is not on.
	if err := c.Login(t.Context(), f.Email, f.Password, ""); err == nil {
		t.Fatal("labn8n: n8n took a login without the MFA code")
	}
}

// seedCredentials makes some by the editor, one by the public API and some by the command line.
func seedCredentials(t testing.TB, s *Server, c *Client, f *Facts, project string) {
	t.Helper()
	for _, cred := range editorCredentials() {
		var made data[identified]
		c.must(t, "POST", "/rest/credentials", map[string]any{"name": cred.Name, "type": cred.Type, "data": cred.Data, "projectId": project}, &made)
		cred.ID = made.Data.ID
		f.Credentials = append(f.Credentials, cred)
	}
	f.HeaderAuth = f.Credentials[0]

	custom := Credential{Name: "Custom auth by the public API", Type: "httpCustomAuth", Data: map[string]any{"json": `{"headers":{"X-K":"väl-custom"}}`}}
	var made identified
	c.must(t, "POST", "/api/v1/credentials", map[string]any{"name": custom.Name, "type": custom.Type, "data": custom.Data}, &made)
	custom.ID = made.ID
	f.Credentials = append(f.Credentials, custom)

	imported := importedCredentials()
	s.importFile(t, "import:credentials", f.OwnerID, asImport(imported))
	f.Credentials = append(f.Credentials, imported...)
}

func editorCredentials() []Credential {
	var big strings.Builder
	big.WriteString("-----BEGIN LAB DATA-----\n")
	for i := range 770 {
		sum := sha256.Sum256(fmt.Append(nil, i))
		big.WriteString(base64.StdEncoding.EncodeToString(append(sum[:], sum[:16]...)) + "\n")
	}
	big.WriteString("-----END LAB DATA-----\n")
	return []Credential{
		{Name: "Header auth (echo)", Type: "httpHeaderAuth", Data: map[string]any{"name": "X-Lab-Auth", "value": "s3cr3t-header-value"}},
		{Name: "Basic auth", Type: "httpBasicAuth", Data: map[string]any{"user": "basic-user", "password": "b@sic:pass/word"}},
		{Name: "Postgres", Type: "postgres", Data: map[string]any{"host": "127.0.0.1", "database": "lab", "user": "lab", "password": "p@ss:w'ord\"/!\\", "maxConnections": 100, "allowUnauthorizedCerts": false, "ssl": "disable", "port": 5432, "sshTunnel": false}},
		{Name: "Slack bot", Type: "slackApi", Data: map[string]any{"accessToken": "lab-slack-bot-token", "signatureSecret": "lab-slack-signing"}},
		{Name: "日本語 клад 🔐 “quotes” é", Type: "httpHeaderAuth", Data: map[string]any{"name": "X-Ünïcode", "value": "pässwörd-Ω-🔑-👩‍👩‍👧-\u2028-\t-\"-'-\\-\n-ÿ-𝔘"}},
		{Name: "SSH 50 kB", Type: "sshPrivateKey", Data: map[string]any{"host": "127.0.0.1", "port": 22, "username": "lab", "privateKey": big.String(), "passphrase": "lab-phrase-for-ssh"}},
		{Name: "Empty fields", Type: "httpDigestAuth", Data: map[string]any{"user": "", "password": ""}},
		{Name: "JWT", Type: "jwtAuth", Data: map[string]any{"keyType": "passphrase", "secret": "lab-jwt-secret", "algorithm": "HS256"}},
		{Name: "Writer A", Type: "httpHeaderAuth", Data: map[string]any{"name": "X-Writer", "value": "writer-value-000000"}},
		{Name: "Writer B", Type: "httpHeaderAuth", Data: map[string]any{"name": "X-Writer", "value": "writer-value-000000"}},
	}
}

func importedCredentials() []Credential {
	return []Credential{
		{ID: "labOAuth2Tok0001", Name: "OAuth2 with tokens", Type: "oAuth2Api", Data: map[string]any{
			"grantType": "authorizationCode", "authUrl": "https://auth.example.test/authorize", "accessTokenUrl": "https://auth.example.test/token",
			"clientId": "lab-client", "clientSecret": "lab-client-secret", "scope": "read write offline", "authQueryParameters": "", "authentication": "header",
			"oauthTokenData": map[string]any{"access_token": "lab-access-token-0001", "refresh_token": "lab-refresh-token-0001", "token_type": "Bearer", "expires_in": 3600},
		}},
		{ID: "labSmtp000000001", Name: "SMTP", Type: "smtp", Data: map[string]any{"user": "u", "password": "smtp-päss-wörd", "host": "127.0.0.1", "port": 2525, "secure": false}},
		{ID: "labEmptyObj00001", Name: "Empty object", Type: "httpQueryAuth", Data: map[string]any{}},
		{ID: "labUnknownType01", Name: "Unknown type", Type: "labCustomUnknownApi", Data: map[string]any{"apiKey": "unknown-type-key", "nested": map[string]any{"a": []any{1, 2, map[string]any{"b": nil}}, "f": 1.5, "t": true}}},
	}
}

func asImport(creds []Credential) []map[string]any {
	var list []map[string]any
	for _, c := range creds {
		list = append(list, map[string]any{"id": c.ID, "name": c.Name, "type": c.Type, "data": c.Data})
	}
	return list
}

// ImportForeignCredential has n8n's own import take a credential that another instance encrypted, which n8n does not notice,
// and returns its id.
func (in Instance) ImportForeignCredential(t testing.TB, f *Facts) string {
	t.Helper()
	key, err := n8ncrypt.NewInstanceKey("key-of-another-instance-0123456789")
	if err != nil {
		t.Fatal(err)
	}
	value, err := key.EncryptCBC([]byte(`{"name":"X-Foreign","value":"foreign-value"}`))
	if err != nil {
		t.Fatal(err)
	}
	const id = "labForeignKey001"
	in.importFile(t, "import:credentials", f.OwnerID, []map[string]any{{"id": id, "name": "Foreign", "type": "httpHeaderAuth", "data": value.String()}})
	return id
}

// ImportCredentials has n8n's own import take credentials, which must have ids.
func (in Instance) ImportCredentials(t testing.TB, f *Facts, creds ...Credential) {
	t.Helper()
	in.importFile(t, "import:credentials", f.OwnerID, asImport(creds))
}

// importFile hands a list to an import command of n8n.
func (in Instance) importFile(t testing.TB, command, owner string, list any) {
	t.Helper()
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "import.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	in.CLI(t, command, "--input="+file, "--userId="+owner)
}

// CallWebhook posts to the seeded workflow and returns the value that n8n sent to the echo as its credential.
func (c *Client) CallWebhook(ctx context.Context, f *Facts) (string, error) {
	return c.call(ctx, "/webhook/"+f.Webhook)
}

// Resume continues the waiting execution of an instance; at is Echo.ResumeURL, whatever address the instance had then.
// It returns the value that n8n sent to the echo.
func (c *Client) Resume(ctx context.Context, at string) (string, error) {
	_, path, ok := strings.Cut(strings.TrimPrefix(at, "http://"), "/")
	if !ok {
		return "", fmt.Errorf("resume address %q has no path", at)
	}
	return c.call(ctx, "/"+path)
}

func (c *Client) call(ctx context.Context, path string) (string, error) {
	var answer struct {
		Headers http.Header `json:"headers"`
	}
	if err := c.Do(ctx, "POST", path, map[string]any{"n": 1, "msg": "héllo 🔐"}, &answer); err != nil {
		return "", err
	}
	return answer.Headers.Get("X-Lab-Auth"), nil
}

// AwaitWebhook returns when the seeded workflow answers: n8n registers webhooks some time after its editor is accessible.
func (c *Client) AwaitWebhook(t testing.TB, f *Facts) {
	t.Helper()
	Eventually(t, "the webhook", func() (bool, error) {
		_, err := c.CallWebhook(t.Context(), f)
		var status *StatusError
		if errors.As(err, &status) && status.Status == http.StatusNotFound {
			return false, err
		}
		if err != nil {
			t.Fatalf("labn8n: calling the webhook: %v", err)
		}
		return true, nil
	})
}
