package gcsblob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"cloud.google.com/go/compute/metadata"
	"github.com/n8keep/n8keep/internal/remote"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// The roles of the identity are the limit, not the scope.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// readCredentials prepares the source of tokens. A metadata server is asked when
// the first token is needed.
func (s *Store) readCredentials() error {
	if s.cfg.Emulator || s.cfg.Credentials == "none" {
		s.tokenOnce.Do(func() {})
		return nil
	}
	path, found := s.credentialsFile()
	if !found {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return fmt.Errorf("reading credentials %q: %w", path, err)
	}
	var doc struct {
		Type google.CredentialsType `json:"type"`
	}
	if json.Unmarshal(b, &doc) != nil || doc.Type == "" {
		return fmt.Errorf("reading credentials %q: it is not a Google credentials file", path)
	}
	// The source lives as long as the store, so it has no request's context.
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: 30 * time.Second})
	c, err := google.CredentialsFromJSONWithType(ctx, b, doc.Type, scope)
	if err != nil {
		// The library quotes what it could not parse.
		return fmt.Errorf("reading credentials %q: a file of type %.40q is not complete or not supported", path, string(doc.Type))
	}
	s.tokenOnce.Do(func() { s.token = oauth2.ReuseTokenSource(nil, c.TokenSource) })
	return nil
}

// credentialsFile is the file that must be read, if any.
func (s *Store) credentialsFile() (string, bool) {
	if path, ok := strings.CutPrefix(s.cfg.Credentials, "file:"); ok {
		return path, true
	}
	if path, ok := s.cfg.Env("GOOGLE_APPLICATION_CREDENTIALS"); ok && path != "" {
		return path, true
	}
	dir, ok := s.cfg.Env("CLOUDSDK_CONFIG")
	if !ok || dir == "" {
		home, ok := s.cfg.Env("HOME")
		if !ok || home == "" {
			return "", false
		}
		dir = filepath.Join(home, ".config", "gcloud")
	}
	path := filepath.Join(dir, "application_default_credentials.json")
	_, err := os.Stat(path)
	return path, err == nil
}

func (s *Store) authorise(req *http.Request) error {
	s.tokenOnce.Do(func() {
		if !metadata.OnGCEWithContext(req.Context()) {
			s.tokenErr = errors.New("no credentials: no file is named, and this is no machine of Google Cloud")
			return
		}
		s.token = google.ComputeTokenSource("", scope)
	})
	if s.tokenErr != nil {
		return &apiError{Status: http.StatusUnauthorized, Message: s.tokenErr.Error()}
	}
	if s.token == nil {
		return nil
	}
	token, err := s.token.Token()
	if err != nil {
		if r := new(oauth2.RetrieveError); errors.As(err, &r) {
			s.heard.Store(true)
		}
		return tokenFailure(err)
	}
	token.SetAuthHeader(req)
	return nil
}

var errorCode = regexp.MustCompile(`^[a-z_]{1,40}$`)

// tokenFailure leaves out the answer's body, of which only the code is known to be
// harmless.
func tokenFailure(err error) error {
	var r *oauth2.RetrieveError
	if !errors.As(err, &r) {
		return lost(fmt.Errorf("asking for a token: %w", withoutURL(err)))
	}
	if r.Response != nil && (r.Response.StatusCode >= 500 || r.Response.StatusCode == http.StatusTooManyRequests) {
		return remote.Again(&apiError{Status: r.Response.StatusCode, Message: "asking for a token failed"}, retryAfter(r.Response))
	}
	text := "the credentials are refused"
	var doc struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(r.Body, &doc) == nil && errorCode.MatchString(doc.Code) {
		text += " (" + doc.Code + ")"
	}
	if strings.Contains(doc.Description, "short-lived") || strings.Contains(doc.Description, "reasonable timeframe") {
		text += ": this machine's clock is wrong"
	}
	return &apiError{Status: http.StatusUnauthorized, Message: "asking for a token: " + text}
}
