package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	meaning "github.com/n8keep/n8keep/internal/health"
	"github.com/n8keep/n8keep/internal/problem"
)

// health asks n8n's health endpoints: /healthz is 200 as soon as its server listens,
// /healthz/readiness when its database is connected and migrated (404 in releases
// that do not have it).
type health struct {
	alive, readiness string
	http             *http.Client
}

// bodyLimit is far above what n8n answers.
const bodyLimit = 64 << 10

func newHealth(address string, client *http.Client) (*health, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, problem.New(problem.Usage, "health URL is not an http or https address").
			WithHint("give n8n's own address, such as --health-url http://127.0.0.1:5678/healthz")
	}
	if u.User != nil || u.RawQuery != "" {
		return nil, problem.New(problem.Usage, "health URL of %q has a user, a password or a query in it", u.Host).
			WithHint("n8n's health endpoint needs none: give the address of n8n itself, not of a proxy that asks for a login")
	}
	u = meaning.Alive(u)
	if client == nil {
		client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	}
	return &health{alive: u.String(), readiness: u.JoinPath("readiness").String(), http: client}, nil
}

func (h *health) ask(ctx context.Context, address string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	response, err := h.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, bodyLimit))
	return response.StatusCode, nil
}

// ready reports whether n8n is, and what it said if not.
func (h *health) ready(ctx context.Context) (bool, string) {
	for _, address := range []string{h.alive, h.readiness} {
		status, err := h.ask(ctx, address)
		switch {
		case err != nil:
			return false, address + ": " + reason(err)
		case status == http.StatusNotFound && address == h.readiness:
		case status != http.StatusOK:
			return false, fmt.Sprintf("%s answers with status %d", address, status)
		}
	}
	return true, ""
}

// answers reports whether n8n is still there.
func (h *health) answers(ctx context.Context) (string, bool) {
	status, err := h.ask(ctx, h.alive)
	switch verdict := meaning.Judge(status, err); {
	case verdict == meaning.Silent:
		return "", false
	case verdict == meaning.Answers && err != nil:
		return h.alive + ": " + reason(err), true
	case verdict == meaning.Answers:
		return fmt.Sprintf("%s answers with status %d", h.alive, status), true
	}
	// A server that accepts the connection and says nothing is one that runs.
	var dns *net.DNSError
	if timeout := (net.Error)(nil); !errors.As(err, &dns) && errors.As(err, &timeout) && timeout.Timeout() && ctx.Err() == nil {
		return h.alive + " accepts connections and does not answer", h.accepts(ctx)
	}
	return "", false
}

// accepts reports whether somebody listens.
func (h *health) accepts(ctx context.Context) bool {
	u, err := url.Parse(h.alive)
	if err != nil {
		return false
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// reason is an error of an HTTP client without the address, which stands before it.
func reason(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		err = op.Err
		if isRefused(err) {
			return "connection refused"
		}
	}
	return err.Error()
}
