package health

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestAlive(t *testing.T) {
	for address, want := range map[string]string{
		"http://h:5678":                   "http://h:5678/healthz",
		"https://h/n8n/":                  "https://h/n8n/healthz",
		"https://h/n8n/healthz#x":         "https://h/n8n/healthz",
		"http://h:5678/health-n8n":        "http://h:5678/health-n8n",
		"http://u:p@h:5678/a%2Fb":         "http://u:p@h:5678/a%2Fb/healthz",
		"http://h:5678/healthz/readiness": "http://h:5678/healthz/readiness/healthz",
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := Alive(u).String(); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	for status, want := range map[int]Verdict{200: Answers, 401: Answers, 404: Answers, 500: Answers, 502: Silent, 503: Silent, 504: Silent} {
		if got := Judge(status, nil); got != want {
			t.Errorf("%d: %v", status, got)
		}
	}
	quiet := log.New(io.Discard, "", 0)
	open := httptest.NewUnstartedServer(http.NotFoundHandler())
	open.Config.ErrorLog = quiet
	open.Start()
	defer open.Close()
	sealed := httptest.NewUnstartedServer(http.NotFoundHandler())
	sealed.Config.ErrorLog = quiet
	sealed.StartTLS()
	defer sealed.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	lost := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer lost.Close()
	for address, want := range map[string]Verdict{
		sealed.URL: Answers, // a certificate that nobody knows
		strings.Replace(open.URL, "http:", "https:", 1): Answers,
		gone.URL: Silent,
		lost.URL: Unclear,
	} {
		_, err := http.Get(address)
		if err == nil {
			t.Fatal(address)
		}
		if got := Judge(0, err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := Judge(0, ctx.Err()); got != Unclear {
		t.Error(got)
	}
}
