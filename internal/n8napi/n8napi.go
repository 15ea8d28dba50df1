// Package n8napi asks a running n8n through its public API (/api/v1, header
// X-N8N-API-KEY) what it is working on: it reads executions and nothing else. A
// [Session] lists n8n's data keys and lets it make a new one (2.18 and later, with the
// key rotation flag on), which no API key may.
//
// Which version answers what, as published:
//
//	n8n             GET /executions?status=
//	1.0 to 1.110    error, success, waiting: running ones cannot be asked for
//	1.113.3         also canceled, running
//	2.13.4          also new, crashed, unknown
//
// An n8n without the filter answers 400, one whose API is switched off
// (N8N_PUBLIC_API_DISABLED) 404: both are "not supported", not an error. The list
// holds only executions of workflows that the owner of the key may read, so an
// empty one of a member proves little; an instance owner or admin sees all.
//
// Key and session travel in a header only, never to another host: redirects are not
// followed. It is in no error, and neither is anything the server said beyond its
// status and a short message. Answers are read with a limit. Safe for concurrent use.
package n8napi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Config names an n8n and who asks.
type Config struct {
	URL string        // where n8n is, "https://n8n.example.com"; a path before /api/v1 stays
	Key secret.String // API key with the scope execution:list
	// HTTP does the requests; nil is a client of our own. Its redirect policy and
	// timeout are replaced.
	HTTP *http.Client
	// Timeout of one request; 0 is 15 seconds.
	Timeout time.Duration
}

// Client asks one n8n.
type Client struct {
	base *url.URL
	key  secret.String
	http http.Client
}

// Execution is one that n8n works on, or has accepted and not begun.
type Execution struct {
	ID         string
	WorkflowID string
	Status     string    // "new" or "running"
	Started    time.Time // zero if it has not begun
}

// MostExecutions bounds the list of Running.
const MostExecutions = 1000

// New checks the address, which must be http or https and hold no password.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil: // the parser quotes what it was given
		return nil, problem.New(problem.Usage, "the address of n8n cannot be read").WithHint("write it as https://HOST or http://HOST:5678")
	case u.User != nil:
		return nil, problem.New(problem.Usage, "the address of n8n has a user or password in it").WithHint("name only the host; the API key is given apart from it")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, problem.New(problem.Usage, "%q is no address of n8n", cfg.URL).WithHint("write it as https://HOST or http://HOST:5678")
	case cfg.Key.IsZero():
		return nil, problem.New(problem.Usage, "no API key for n8n was given").WithHint(`make one in n8n under Settings, n8n API, with the scope "execution:list"`)
	}
	u.RawQuery, u.Fragment = "", ""
	c := &Client{base: u, key: cfg.Key}
	if cfg.HTTP != nil {
		c.http = *cfg.HTTP
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.http.Timeout = cfg.Timeout; cfg.Timeout == 0 {
		c.http.Timeout = 15 * time.Second
	}
	return c, nil
}

// Running lists the executions that are running, and from n8n 2.13.4 the new ones,
// at most [MostExecutions]. With supported false this n8n cannot say.
func (c *Client) Running(ctx context.Context) (list []Execution, supported bool, err error) {
	for _, status := range []string{"running", "new"} {
		found, known, err := c.byStatus(ctx, status, MostExecutions-len(list))
		if err != nil {
			return nil, false, err
		}
		if !known {
			if status == "running" {
				return nil, false, nil
			}
			break // before 2.13.4
		}
		list = append(list, found...)
	}
	return list, true, nil
}

// page is n8n's answer. Ids are numbers in some versions and text in others.
type page struct {
	Data []struct {
		ID         json.RawMessage `json:"id"`
		WorkflowID json.RawMessage `json:"workflowId"`
		Status     string          `json:"status"`
		StartedAt  *time.Time      `json:"startedAt"`
	} `json:"data"`
	NextCursor string `json:"nextCursor"`
}

const pageSize = 250 // the largest that n8n takes

func (c *Client) byStatus(ctx context.Context, status string, most int) (list []Execution, known bool, err error) {
	query := url.Values{"status": {status}, "limit": {fmt.Sprint(pageSize)}, "includeData": {"false"}}
	for len(list) < most {
		body, code, err := c.get(ctx, "api/v1/executions", query)
		if err != nil {
			return nil, false, err
		}
		switch {
		case code == http.StatusBadRequest && aboutStatus(body), code == http.StatusNotFound:
			return nil, false, nil
		case code != http.StatusOK:
			return nil, false, c.refused(code)
		}
		var p page
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, false, problem.New(problem.Unreachable, "what answers at %s is not n8n's API", c.base.Host).
				WithHint("the address must be the one of n8n itself; a page of a proxy or a login answered")
		}
		for _, e := range p.Data {
			if e.Status != "" && e.Status != status {
				return nil, false, nil // a version that ignores the filter would be read to the end of its history
			}
			if len(list) == most {
				break
			}
			one := Execution{ID: plain(e.ID), WorkflowID: plain(e.WorkflowID), Status: status}
			if e.StartedAt != nil {
				one.Started = e.StartedAt.UTC()
			}
			list = append(list, one)
		}
		if p.NextCursor == "" || len(p.Data) == 0 || p.NextCursor == query.Get("cursor") {
			break
		}
		query.Set("cursor", p.NextCursor)
	}
	return list, true, nil
}

// aboutStatus tells "this status is not one of those I know" from other refusals.
func aboutStatus(body []byte) bool {
	var answer struct {
		Message string `json:"message"`
	}
	return json.Unmarshal(body, &answer) == nil && strings.Contains(answer.Message, "status")
}

func plain(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(bytes.TrimSpace(raw))
}

const mostAnswer = 8 << 20

func (c *Client) get(ctx context.Context, path string, query url.Values) (body []byte, code int, err error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, problem.New(problem.Usage, "%q is no address of n8n", c.base)
	}
	req.Header.Set("X-N8N-API-KEY", c.key.Reveal())
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
	if err != nil {
		return nil, 0, c.unreachable(ctx, err)
	}
	if len(body) > mostAnswer {
		return nil, 0, problem.New(problem.Unreachable, "the answer of %s is longer than n8n's would be", c.base.Host)
	}
	return body, resp.StatusCode, nil
}

// unreachable drops the address that net/http puts into its errors, with the query.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return problem.Wrap(problem.Unreachable, err, "asking n8n at %s", c.base.Host).
		WithHint("check the address of n8n, and that this host reaches it")
}

func (c *Client) refused(code int) error {
	e := problem.New(problem.Unreachable, "n8n at %s answered %d %s", c.base.Host, code, http.StatusText(code))
	switch {
	case code == http.StatusUnauthorized:
		return e.WithHint("the API key is not valid any more: make a new one in n8n under Settings, n8n API")
	case code == http.StatusForbidden:
		return e.WithHint(`the API key needs the scope "execution:list"`)
	case code/100 == 3:
		return e.WithHint("it sends to another address: name that one, so that the key goes nowhere else")
	}
	return e
}
