package labn8n

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// patience is how long something may take that n8n does in the background.
const patience = time.Minute

// Live is what people and services hold of a running instance: nothing of it is a row that an export shows, and all of it
// hangs on secrets that n8n derives from its key or encrypts with it.
type Live struct {
	// Session is the owner's, opened with password and MFA code, and has the API key of the facts.
	Session *Client
	// Approvals are signed links of executions that were started by hand and wait for a person; such executions hold
	// ciphertext from n8n 2.23.4 on. Each link works once.
	Approvals []string
	// Resumes are addresses of executions that a webhook started and that wait for a call. Each works once.
	Resumes []string
	// OAuth is a credential whose tokens n8n fetched itself; CallOAuth uses it.
	OAuth Credential

	project string
}

const oauthHook = "lab-oauth-hook"

// Enliven gives the seeded instance a session, n waiting executions of each kind, and a credential with OAuth2 tokens. The
// instance needs a Port of its own: a cookie and a signed link are of one address.
func Enliven(t testing.TB, s *Server, f *Facts, echo *Echo, n int) *Live {
	t.Helper()
	if s.Port == "" {
		t.Fatal("labn8n: an instance whose links shall work after a restart needs a port of its own")
	}
	c := s.Client(t, f.APIKey)
	if err := c.Login(t.Context(), f.Email, f.Password, f.MFASecret); err != nil {
		t.Fatal(err)
	}
	l := &Live{Session: c}
	var project data[identified]
	c.must(t, "GET", "/rest/projects/personal", nil, &project)
	l.project = project.Data.ID

	l.OAuth = l.authorize(t, f, echo)
	oauth := request("Call", echo.URL+"/oauth/call", l.OAuth)
	l.activate(t, workflow("Webhook with OAuth2", webhook(oauthHook, "lastNode"), oauth))

	telegram := l.CreateCredential(t, Credential{Name: "Telegram bot", Type: "telegramApi", Data: map[string]any{"accessToken": botToken, "baseUrl": echo.URL}})
	f.Credentials = append(f.Credentials, l.OAuth, telegram)
	manual := node{"name": "Manual", "type": "n8n-nodes-base.manualTrigger", "typeVersion": 1, "parameters": node{}}
	ask := node{
		"name": "Ask", "type": "n8n-nodes-base.telegram", "typeVersion": 1.2, "credentials": uses(telegram), "webhookId": "00000000-0000-4000-8000-00000000cccc",
		"parameters": node{"operation": "sendAndWait", "chatId": "1", "message": "may it go on?", "approvalOptions": node{}, "options": node{}},
	}
	approved := request("Call", "={{ '"+echo.URL+"/approved/' + $execution.id }}", f.HeaderAuth)
	byHand := workflow("Approval, started by hand", manual, ask, approved)
	var made data[identified]
	byHand["active"], byHand["projectId"] = false, l.project
	c.must(t, "POST", "/rest/workflows", byHand, &made)
	for range n {
		l.Approvals = append(l.Approvals, l.runByHand(t, made.Data.ID, byHand, echo))
		l.Resumes = append(l.Resumes, l.wait(t, echo))
	}
	return l
}

// authorize makes a credential and goes through the flow that fetches its tokens, as a person in the editor does.
func (l *Live) authorize(t testing.TB, f *Facts, echo *Echo) Credential {
	t.Helper()
	cred := l.CreateCredential(t, Credential{Name: "OAuth2 of the echo", Type: "oAuth2Api", Data: map[string]any{
		"grantType": "authorizationCode", "authUrl": echo.URL + "/oauth/authorize", "accessTokenUrl": echo.URL + "/oauth/token",
		"clientId": oauthClient, "clientSecret": oauthSecret, "scope": "all", "authQueryParameters": "", "authentication": "header",
	}})
	var at data[string]
	l.Session.must(t, "GET", "/rest/oauth2-credential/auth?id="+cred.ID, nil, &at)
	u, err := url.Parse(at.Data)
	if err != nil || u.Query().Get("state") == "" {
		t.Fatalf("labn8n: the address for authorizing %s has no state (%v)", cred.ID, err)
	}
	query := url.Values{"code": {oauthCode}, "state": {u.Query().Get("state")}}
	if err := l.Session.Do(t.Context(), "GET", "/rest/oauth2-credential/callback?"+query.Encode(), nil, nil); err != nil && !strings.Contains(err.Error(), "decoding the answer") {
		t.Fatal(err)
	}
	if echo.AccessToken() == "lab-oauth-access-000000" {
		t.Fatal("labn8n: n8n fetched no OAuth2 token")
	}
	return cred
}

// runByHand starts the workflow as the editor does and returns the link that approves it.
func (l *Live) runByHand(t testing.TB, id string, w node, echo *Echo) string {
	t.Helper()
	w["id"] = id // n8n 1.x and 2.0 take the workflow from the request
	var run data[struct {
		ExecutionID string `json:"executionId"`
	}]
	l.Session.must(t, "POST", "/rest/workflows/"+id+"/run", node{"workflowData": w, "triggerToStartFrom": node{"name": "Manual"}}, &run)
	link, err := echo.link(t.Context(), run.Data.ExecutionID)
	if err != nil {
		t.Fatalf("labn8n: %v", err)
	}
	l.awaitStatus(t, run.Data.ExecutionID, "waiting")
	return link
}

// wait starts the seeded workflow with the Wait node and returns the address that continues it.
func (l *Live) wait(t testing.TB, echo *Echo) string {
	t.Helper()
	before := echo.ResumeURL()
	l.Session.must(t, "POST", "/webhook/lab-wait", node{"n": 1}, nil)
	var at string
	if err := echo.await(t.Context(), "an execution that waits", func() bool { at = echo.resume; return at != before }); err != nil {
		t.Fatalf("labn8n: %v", err)
	}
	l.awaitStatus(t, execution(at), "waiting")
	return at
}

func (l *Live) awaitStatus(t testing.TB, id, want string) {
	t.Helper()
	Eventually(t, "execution "+id+" to be "+want, func() (bool, error) {
		got, err := l.Session.Execution(t.Context(), id)
		if err != nil {
			return false, err
		}
		return got.Status == want, fmt.Errorf("it is %q", got.Status)
	})
}

// Execution is one of n8n's, as the editor shows it.
func (c *Client) Execution(ctx context.Context, id string) (Execution, error) {
	var one data[Execution]
	err := c.Do(ctx, "GET", "/rest/executions/"+id, nil, &one)
	return one.Data, err
}

// CreateCredential makes one in the owner's project through the editor's interface and returns it with its id.
func (l *Live) CreateCredential(t testing.TB, cred Credential) Credential {
	t.Helper()
	var made data[identified]
	l.Session.must(t, "POST", "/rest/credentials", map[string]any{"name": cred.Name, "type": cred.Type, "data": cred.Data, "projectId": l.project}, &made)
	cred.ID = made.Data.ID
	return cred
}

// ReadCredential is what the editor shows of a credential: its fields, secret ones blanked. n8n shows one that it cannot
// decrypt without any field, and without an error.
func (c *Client) ReadCredential(ctx context.Context, id string) (map[string]any, error) {
	var one data[struct {
		Data map[string]any `json:"data"`
	}]
	err := c.Do(ctx, "GET", "/rest/credentials/"+id+"?includeData=true", nil, &one)
	return one.Data.Data, err
}

// AddWebhook makes an active workflow that calls the echo with a credential of type httpHeaderAuth, on a webhook of that
// path.
func (l *Live) AddWebhook(t testing.TB, path string, cred Credential, echo *Echo) {
	t.Helper()
	l.activate(t, workflow("Webhook "+path, webhook(path, "lastNode"), request("Call", echo.URL+"/"+path, cred)))
}

func (l *Live) activate(t testing.TB, w node) {
	t.Helper()
	var made identified
	l.Session.must(t, "POST", "/api/v1/workflows", w, &made)
	l.Session.activate(t, made.ID)
}

// CallHook posts to the webhook of that path and returns the headers that n8n sent to the echo. n8n may answer 404 for a
// while after a start.
func (c *Client) CallHook(ctx context.Context, path string) (http.Header, error) {
	var got struct {
		Headers http.Header `json:"headers"`
	}
	err := c.Do(ctx, "POST", "/webhook/"+path, node{"n": 1}, &got)
	return got.Headers, err
}

// CallOAuth has n8n call the service with its OAuth2 credential, and returns the token that the service took.
func (c *Client) CallOAuth(ctx context.Context) (string, error) {
	h, err := c.CallHook(ctx, oauthHook)
	return strings.TrimPrefix(h.Get("Authorization"), "Bearer "), err
}

// SessionUser is the e-mail address of the user whose session the client has; n8n answers 401 to one that it does not know.
func (c *Client) SessionUser(ctx context.Context) (string, error) {
	var who data[struct {
		Email string `json:"email"`
	}]
	err := c.Do(ctx, "GET", "/rest/login", nil, &who)
	return who.Data.Email, err
}

// Approve follows a link as a person does, and returns the value that n8n then sent to the echo as the seeded header
// credential.
func (c *Client) Approve(ctx context.Context, link string, echo *Echo) (string, error) {
	if err := c.visit(ctx, link); err != nil {
		return "", err
	}
	h, err := echo.call(ctx, "/approved/"+execution(link))
	return h.Get("X-Lab-Auth"), err
}

// ApproveForged follows a link whose signature is that of another answer.
func (c *Client) ApproveForged(ctx context.Context, link string) error {
	return c.visit(ctx, strings.Replace(link, "approved=true", "approved=false", 1))
}

func (c *Client) visit(ctx context.Context, link string) error {
	u, err := url.Parse(link)
	if err != nil {
		return fmt.Errorf("parsing an approval link: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", c.url+u.RequestURI(), nil)
	if err != nil {
		return err
	}
	req.Host = u.Host                                                                                      // part of what n8n 1.x and 2.0 sign
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0") // n8n ignores what looks like a robot
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &StatusError{"GET", u.Path, resp.StatusCode, ""}
	}
	return nil
}

// Found calls f until n8n knows the address: it registers webhooks some time after its editor is accessible.
func Found(t testing.TB, what string, f func() error) {
	t.Helper()
	Eventually(t, what, func() (bool, error) {
		err := f()
		var status *StatusError
		if errors.As(err, &status) && status.Status == http.StatusNotFound {
			return false, err
		}
		if err != nil {
			t.Fatalf("labn8n: %s: %v", what, err)
		}
		return true, nil
	})
}
