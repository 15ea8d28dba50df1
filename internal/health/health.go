// Package health says what n8n's health address is, and what an answer there means, so
// that all of n8keep means the same by --health-url.
//
// Any answer of a server says that n8n runs, but for what a reverse proxy says of a
// server that it does not reach: that is silence, as is a refused connection. A failed
// TLS handshake is an answer: somebody listens, and who it is cannot be told, so that
// n8n has to be believed to run. Everything else is for the caller to judge: the
// connection may have been lost on either side.
//
// It refuses nothing, keeps nothing, and does no I/O. Answers are those of whoever
// listens there; no more than their status is looked at.
package health

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"syscall"
)

// Alive is the address that answers 200 as soon as n8n's server listens: u itself if it
// looks like a health endpoint, which N8N_ENDPOINT_HEALTH may have renamed, else
// /healthz below u. u is left as it is.
func Alive(u *url.URL) *url.URL {
	alive := *u
	alive.Fragment, alive.RawFragment = "", ""
	if last := path.Base(alive.Path); !strings.HasPrefix(last, "health") {
		alive = *alive.JoinPath("healthz")
	}
	alive.Path, alive.RawPath = strings.TrimSuffix(alive.Path, "/"), strings.TrimSuffix(alive.RawPath, "/")
	return &alive
}

// Verdict is what an attempt to ask says about n8n.
type Verdict int

const (
	Unclear Verdict = iota // the error says nothing about n8n
	Silent                 // nobody listens, or a proxy with nobody behind it
	Answers                // somebody is there
)

// Judge is what the outcome of a request to n8n means: an error of an HTTP client, or
// else a status.
func Judge(status int, err error) Verdict {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Silent
	case err != nil && isTLS(err):
		return Answers
	case err != nil:
		return Unclear
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return Silent
	}
	return Answers
}

// isTLS reports whether a connection was there, and a handshake failed on it.
func isTLS(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		authority   x509.UnknownAuthorityError
		host        x509.HostnameError
		invalid     x509.CertificateInvalidError
	)
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}
