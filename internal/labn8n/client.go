package labn8n

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"
)

// browserID is what the editor in a browser makes up for itself; n8n binds sessions to it.
const browserID = "n8keep-test"

// Client talks to one n8n as its editor does (a session cookie bound to a browser id) and, for paths under /api/, as a
// script with an API key. It is safe for concurrent use.
type Client struct {
	url    string
	apiKey string
	http   *http.Client
}

// Client returns one that is not logged in; apiKey may be empty.
func (s *Server) Client(t testing.TB, apiKey string) *Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Client{url: s.URL, apiKey: apiKey, http: &http.Client{Jar: jar, Timeout: 2 * time.Minute}}
}

// StatusError is an answer that is not 2xx.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string // at most 500 bytes
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, e.Body)
}

// Do sends body as JSON and decodes the answer into out; either may be nil. An answer that is not 2xx is a *StatusError.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding the body of %s %s: %w", method, path, err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Browser-Id", browserID)
	if c.apiKey != "" && strings.HasPrefix(path, "/api/") {
		req.Header.Set("X-N8N-API-KEY", c.apiKey)
	}
	if strings.HasPrefix(path, overwritesPath) {
		req.Header.Set("Authorization", "Bearer "+overwritesToken)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("reading the answer to %s %s: %w", method, path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &StatusError{method, path, resp.StatusCode, string(answer[:min(len(answer), 500)])}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decoding the answer to %s %s: %w", method, path, err)
	}
	return nil
}

// must is Do that ends the test.
func (c *Client) must(t testing.TB, method, path string, body, out any) {
	t.Helper()
	if err := c.Do(t.Context(), method, path, body, out); err != nil {
		t.Fatalf("labn8n: %v", err)
	}
}

// data is the envelope of /rest answers.
type data[T any] struct {
	Data T `json:"data"`
}

type identified struct {
	ID string `json:"id"`
}

// Login opens a session; secret is the TOTP secret of an owner with MFA, or empty.
func (c *Client) Login(ctx context.Context, email, password, secret string) error {
	body := map[string]string{"emailOrLdapLoginId": email, "password": password}
	if secret != "" {
		code, err := totp(secret, time.Now())
		if err != nil {
			return err
		}
		body["mfaCode"] = code
	}
	return c.Do(ctx, "POST", "/rest/login", body, nil)
}

// Cookie is the client's session as a browser's developer tools show it: the lines that n8keep takes as a session file.
func (c *Client) Cookie(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(c.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range c.http.Jar.Cookies(u) {
		if cookie.Name == "n8n-auth" {
			return "Cookie: " + cookie.String() + "\nbrowser-id: " + browserID + "\n"
		}
	}
	t.Fatal("labn8n: the client is not logged in")
	return ""
}

// DataKeys are n8n's own keys by id, as its interface for rotating them lists them; only with n8n's flag for that.
func (c *Client) DataKeys(ctx context.Context) (map[string]DataKey, error) {
	var list data[struct {
		Items []DataKey `json:"items"`
	}]
	if err := c.Do(ctx, "GET", "/rest/encryption/keys?type=data_encryption", nil, &list); err != nil {
		return nil, err
	}
	keys := map[string]DataKey{}
	for _, k := range list.Data.Items {
		keys[k.ID] = k
	}
	return keys, nil
}

// RotateDataKey has n8n make another data key, which is the active one then, and returns its id.
func (c *Client) RotateDataKey(ctx context.Context) (string, error) {
	var made data[DataKey]
	err := c.Do(ctx, "POST", "/rest/encryption/keys", map[string]string{"type": "data_encryption"}, &made)
	return made.Data.ID, err
}

// DataKey is a row of that list.
type DataKey struct {
	ID, Algorithm, Status string
}

// UpdateCredential writes all of a credential through the editor's interface.
func (c *Client) UpdateCredential(ctx context.Context, cred Credential) error {
	body := map[string]any{"name": cred.Name, "type": cred.Type, "data": cred.Data}
	return c.Do(ctx, "PATCH", "/rest/credentials/"+cred.ID, body, nil)
}

// PatchCredential writes all of a credential with the API key: n8n >= 2.4.
func (c *Client) PatchCredential(ctx context.Context, cred Credential) error {
	body := map[string]any{"name": cred.Name, "type": cred.Type, "data": cred.Data}
	return c.Do(ctx, "PATCH", "/api/v1/credentials/"+cred.ID, body, nil)
}

// Execution is one row of n8n's execution list.
type Execution struct {
	ID, Status, WorkflowID string
}

// Executions lists all executions by id; the client must be logged in and have an API key. The public API pages the same
// way in every release, but old ones leave out waiting executions: those come from the editor's list.
func (c *Client) Executions(ctx context.Context) (map[string]Execution, error) {
	all := map[string]Execution{}
	cursor := ""
	for {
		var page struct {
			Data []struct {
				ID         any    `json:"id"` // a number in old releases
				Status     string `json:"status"`
				WorkflowID string `json:"workflowId"`
			} `json:"data"`
			NextCursor string `json:"nextCursor"`
		}
		if err := c.Do(ctx, "GET", "/api/v1/executions?limit=250"+cursor, nil, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Data {
			id := fmt.Sprint(e.ID)
			all[id] = Execution{id, e.Status, e.WorkflowID}
		}
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(page.NextCursor)
	}
	var waiting data[struct {
		Results []Execution `json:"results"`
	}]
	if err := c.Do(ctx, "GET", "/rest/executions?limit=100&filter="+url.QueryEscape(`{"status":["waiting"]}`), nil, &waiting); err != nil {
		return nil, err
	}
	for _, e := range waiting.Data.Results {
		all[e.ID] = e
	}
	return all, nil
}

// Eventually calls check until it says true, and ends the test after a minute; the error says what is seen instead.
func Eventually(t testing.TB, what string, check func() (bool, error)) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := check()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("labn8n: waiting for %s: last seen: %v", what, err)
		}
	}
}
