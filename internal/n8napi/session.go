package n8napi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// SessionConfig names an n8n and the session of somebody who is logged in. n8n's key
// rotation can be reached with a session only: no API key has its scope,
// encryptionKey:manage, which owners and admins have.
type SessionConfig struct {
	URL string // where n8n's editor is
	// Cookie is the value of the cookie n8n-auth, or a line as a browser shows it:
	// "n8n-auth=...", other cookies beside it.
	Cookie secret.String
	// BrowserID is the header browser-id with which the session was begun, which n8n
	// (1.50 and later) demands again. A cookie file may hold it as a line of its own:
	// "browser-id: ...".
	BrowserID string
	HTTP      *http.Client  // as in Config
	Timeout   time.Duration // of one request; 0 is 15 seconds
}

// Session asks one n8n as somebody who is logged in.
type Session struct {
	c       *Client
	browser string
}

// DataKey is a row of n8n's list of keys.
type DataKey struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"`
	Algorithm string    `json:"algorithm"`
	Status    string    `json:"status"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

const sessionCookie = "n8n-auth"

// NewSession checks address and cookie.
func NewSession(cfg SessionConfig) (*Session, error) {
	token, browser := parseCookie(cfg.Cookie.Reveal())
	if cfg.BrowserID != "" {
		browser = cfg.BrowserID
	}
	if token == "" {
		return nil, problem.New(problem.Usage, "no session of n8n was given").
			WithHint("log in to n8n as its owner and copy the cookie n8n-auth of the browser into a file that only you can read")
	}
	c, err := New(Config{URL: cfg.URL, Key: secret.NewString(token), HTTP: cfg.HTTP, Timeout: cfg.Timeout})
	if err != nil {
		return nil, err
	}
	return &Session{c: c, browser: browser}, nil
}

// parseCookie takes the token, and the browser's id if it is there, out of what people
// copy: the bare value, a Cookie header, a file of several lines.
func parseCookie(text string) (token, browser string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, ":"); ok {
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "browser-id":
				browser = strings.TrimSpace(value)
				continue
			case "cookie", "set-cookie":
				line = value
			}
		}
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			name, value, ok := strings.Cut(part, "=")
			switch {
			case ok && name == sessionCookie:
				token = value
			case token == "" && strings.Count(part, ".") == 2 && !strings.ContainsAny(part, "= "):
				token = part // the value alone, a JWT
			}
		}
	}
	if strings.ContainsFunc(token+browser, func(r rune) bool { return r <= ' ' || r > '~' || r == ';' || r == ',' || r == '"' }) {
		return "", ""
	}
	return token, browser
}

const keysPath = "rest/encryption/keys"

// DataKeys lists the data keys that n8n has.
func (s *Session) DataKeys(ctx context.Context) ([]DataKey, error) {
	var answer struct {
		Data struct{ Items []DataKey }
	}
	return answer.Data.Items, s.do(ctx, http.MethodGet, url.Values{"type": {"data_encryption"}}, nil, &answer)
}

// RotateDataKey lets n8n make a new active data key. It is not tried again when the
// answer is lost: the list then says what happened.
func (s *Session) RotateDataKey(ctx context.Context) (DataKey, error) {
	var answer struct{ Data DataKey }
	err := s.do(ctx, http.MethodPost, nil, []byte(`{"type":"data_encryption"}`), &answer)
	if err == nil && (answer.Data.ID == "" || answer.Data.Status != "active") {
		err = s.strange()
	}
	return answer.Data, err
}

func (s *Session) strange() error {
	return problem.New(problem.Unreachable, "what answers at %s is not n8n's list of keys", s.c.base.Host).
		WithHint("the address must be the one of n8n itself; a page of a proxy or a login answered")
}

func (s *Session) do(ctx context.Context, method string, query url.Values, body []byte, into any) error {
	u := s.c.base.JoinPath(keysPath)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return problem.New(problem.Usage, "%q is no address of n8n", s.c.base)
	}
	req.Header.Set("Cookie", sessionCookie+"="+s.c.key.Reveal())
	req.Header.Set("Accept", "application/json")
	if s.browser != "" {
		req.Header.Set("browser-id", s.browser)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.c.http.Do(req)
	if err != nil {
		return s.c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return s.c.unreachable(ctx, err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return s.refused(resp.StatusCode)
	}
	if json.Unmarshal(text, into) != nil {
		return s.strange()
	}
	return nil
}

func (s *Session) refused(code int) error {
	e := problem.New(problem.Unreachable, "n8n at %s answered %d %s", s.c.base.Host, code, http.StatusText(code))
	switch {
	case code == http.StatusUnauthorized && s.browser == "":
		return e.WithHint("the session has ended, or n8n wants the browser-id it was begun with: copy that header of a request, too, as a line \"browser-id: ...\" of the same file")
	case code == http.StatusUnauthorized:
		return e.WithHint("the session has ended: log in again and copy the cookie n8n-auth anew")
	case code == http.StatusForbidden:
		return e.WithHint("the session must be one of the owner or an admin of n8n (scope encryptionKey:manage)")
	case code == http.StatusNotFound:
		return e.WithHint("n8n has this only from 2.18 on and with its key rotation flag on: leave the session out, and the key is made in the database")
	case code/100 == 3:
		return e.WithHint("it sends to another address: name that one, so that the session goes nowhere else")
	}
	return e
}
