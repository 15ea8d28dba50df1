package azureblob

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/n8keep/n8keep/internal/remote"
)

// Limits of one request. A block of 8 MiB has blockTimeout, so the slowest line
// that works has about 30 KB/s.
const (
	blockTimeout = 5 * time.Minute
	callTimeout  = 90 * time.Second
)

// secrets is one of the ways in; at most one field is set.
type secrets struct {
	key      string
	sas      string
	endpoint string // from a connection string
}

// connect makes the client with the first credentials that are there.
func (s *Store) connect() error {
	found, err := s.credentials()
	if err != nil {
		return err
	}
	base := s.cfg.Endpoint
	if base == "" {
		base = found.endpoint
	}
	if base == "" {
		base = "https://" + s.cfg.Account + ".blob.core.windows.net"
	}
	target := strings.TrimSuffix(base, "/") + "/" + s.cfg.Container
	options := &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry:            policy.RetryOptions{MaxRetries: -1}, // [remote.Retry] does it
		Transport:        s.cfg.Transport,
		PerRetryPolicies: []policy.Policy{s.clock},
		Telemetry:        policy.TelemetryOptions{ApplicationID: "n8keep"},
	}}
	if options.Transport == nil {
		options.Transport = newClient()
	}
	switch {
	case found.sas != "":
		s.client, err = container.NewClientWithNoCredential(target+"?"+found.sas, options)
	case found.key != "":
		var key *container.SharedKeyCredential
		if key, err = container.NewSharedKeyCredential(s.cfg.Account, found.key); err == nil {
			s.client, err = container.NewClientWithSharedKeyCredential(target, key, options)
		}
	case s.cfg.Credentials == "none":
		s.client, err = container.NewClientWithNoCredential(target, options)
	default:
		var token *azidentity.DefaultAzureCredential
		if token, err = azidentity.NewDefaultAzureCredential(nil); err == nil {
			s.client, err = container.NewClient(target, token, options)
		}
	}
	if err != nil {
		return errors.New("the credentials or the endpoint cannot be used") // the cause may quote them
	}
	return nil
}

func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: blockTimeout,
			IdleConnTimeout:       60 * time.Second,
			MaxIdleConnsPerHost:   8,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *Store) credentials() (secrets, error) {
	if path, ok := strings.CutPrefix(s.cfg.Credentials, "file:"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			var p *os.PathError
			if errors.As(err, &p) {
				err = p.Err
			}
			return secrets{}, fmt.Errorf("reading credentials %q: %w", path, err)
		}
		found, err := s.understand(strings.TrimSpace(string(b)))
		if err != nil {
			return found, fmt.Errorf("reading credentials %q: %w", path, err)
		}
		return found, nil
	}
	if s.cfg.Credentials == "identity" || s.cfg.Credentials == "none" {
		return secrets{}, nil
	}
	for _, name := range []string{"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_KEY"} {
		if v, ok := s.cfg.Env(name); ok && v != "" {
			found, err := s.understand(strings.TrimSpace(v))
			if err != nil {
				return found, fmt.Errorf("reading the variable %s: %w", name, err)
			}
			return found, nil
		}
	}
	return secrets{}, nil
}

// understand tells a connection string, a signature and a key apart. Its errors
// hold nothing of the text.
func (s *Store) understand(text string) (secrets, error) {
	switch {
	case text == "":
		return secrets{}, errors.New("it is empty")
	case strings.Contains(text, "AccountKey=") || strings.Contains(text, "SharedAccessSignature="):
		return s.connectionString(text)
	case strings.Contains(text, "sig="):
		if _, query, ok := strings.Cut(text, "?"); ok {
			text = query // a whole URL with a signature
		}
		return s.signature(text)
	}
	if b, err := base64.StdEncoding.DecodeString(text); err != nil || len(b) < 16 {
		return secrets{}, errors.New("it is neither a connection string nor a shared access signature nor an account key")
	}
	return secrets{key: text}, nil
}

func (s *Store) connectionString(text string) (secrets, error) {
	parts := map[string]string{}
	for part := range strings.SplitSeq(text, ";") {
		if name, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok {
			parts[name] = value
		}
	}
	if name := parts["AccountName"]; name != "" && name != s.cfg.Account {
		return secrets{}, fmt.Errorf("the connection string is for the account %.40q, the URL names %q", name, s.cfg.Account)
	}
	endpoint := parts["BlobEndpoint"]
	if suffix := parts["EndpointSuffix"]; endpoint == "" && suffix != "" {
		endpoint = "https://" + s.cfg.Account + ".blob." + suffix
	}
	if sas := parts["SharedAccessSignature"]; sas != "" {
		found, err := s.signature(sas)
		found.endpoint = endpoint
		return found, err
	}
	return secrets{key: parts["AccountKey"], endpoint: endpoint}, nil
}

// signature refuses one that has expired: the server would only say that it refuses.
func (s *Store) signature(text string) (secrets, error) {
	text = strings.TrimPrefix(text, "?")
	values, err := url.ParseQuery(text)
	if err != nil || values.Get("sig") == "" {
		return secrets{}, errors.New("the shared access signature is not complete")
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z", time.DateOnly} {
		if end, err := time.Parse(layout, values.Get("se")); err == nil && end.Add(24*time.Hour).Before(s.cfg.Now()) {
			return secrets{}, fmt.Errorf("the shared access signature expired on %s", end.UTC().Format(time.DateOnly))
		}
	}
	return secrets{sas: text}, nil
}

// skew sets the date of requests by the server's clock once that was seen to be
// minutes away from ours: Azure refuses requests signed with a date more than 15
// minutes off.
type skew struct {
	now   func() time.Time
	heard atomic.Bool // something answered once
	mu    sync.Mutex
	off   time.Duration
}

// Do implements policy.Policy; it runs before the request is signed.
func (k *skew) Do(req *policy.Request) (*http.Response, error) {
	k.mu.Lock()
	off := k.off
	k.mu.Unlock()
	if off != 0 {
		req.Raw().Header.Set("x-ms-date", k.now().Add(off).UTC().Format(http.TimeFormat))
	}
	resp, err := req.Next()
	if err == nil {
		k.heard.Store(true)
		k.learn(resp.Header.Get("Date"))
	}
	return resp, err
}

func (k *skew) learn(date string) {
	server, err := http.ParseTime(date)
	if err != nil {
		return
	}
	off := server.Sub(k.now())
	if off.Abs() < 5*time.Minute {
		off = 0
	}
	k.mu.Lock()
	k.off = off
	k.mu.Unlock()
}

func (k *skew) offset() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.off
}

// try runs one request with a limit of time, as often as that makes sense.
func (s *Store) try(ctx context.Context, limit time.Duration, f func(ctx context.Context, attempt int) error) error {
	corrected := false
	return s.cfg.Retry.Do(ctx, func(attempt int) error {
		off := s.clock.offset()
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := s.classify(f(ctx, attempt))
		var api *apiError
		if !corrected && s.clock.offset() != off && errors.As(err, &api) && api.Status == http.StatusForbidden {
			corrected = true // refused for its date; the next one has the server's
			return remote.Again(err, 0)
		}
		return err
	})
}

// apiError is an answer that is not a success.
type apiError struct {
	Status  int
	Code    string // Azure's error code
	Message string
	hint    string
}

const (
	codeTooLarge    = "too large"
	codeCredentials = "credentials"
)

func (e *apiError) Error() string {
	switch {
	case e.Code == "locked", e.Code == codeTooLarge, e.Code == codeCredentials:
		return e.Message
	case e.Code == "":
		return fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
	case e.Message == "":
		return fmt.Sprintf("the server answers %d %s", e.Status, e.Code)
	}
	return fmt.Sprintf("the server answers %d %s: %s", e.Status, e.Code, e.Message)
}

func isStatus(err error, status int) bool {
	var api *apiError
	return errors.As(err, &api) && api.Status == status
}

func isCode(err error, codes ...string) bool {
	var api *apiError
	if errors.As(err, &api) {
		for _, c := range codes {
			if api.Code == c {
				return true
			}
		}
	}
	return false
}

// lostError is a connection that could not be made or broke.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// withoutURL takes the URL out of an error: it may hold a signature.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// classify makes one of our errors of one of the SDK's, whose texts hold whole
// documents, and marks it if another try may end better.
func (s *Store) classify(err error) error {
	var resp *azcore.ResponseError
	var api *apiError
	var auth *azidentity.AuthenticationFailedError
	switch {
	case err == nil, remote.IsAgain(err), errors.As(err, &api):
		return err
	case errors.As(err, &resp):
		e := &apiError{Status: resp.StatusCode, Code: resp.ErrorCode, Message: message(resp)}
		switch resp.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests,
			http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return remote.Again(e, retryAfter(resp.RawResponse))
		}
		return e
	case errors.As(err, &auth) && auth.RawResponse != nil:
		e := &apiError{Status: auth.RawResponse.StatusCode, Code: codeCredentials, Message: fmt.Sprintf("Azure's login refuses the identity (%d)", auth.RawResponse.StatusCode)}
		if e.Status >= 500 {
			return remote.Again(e, 0)
		}
		return e
	case strings.HasPrefix(err.Error(), "DefaultAzureCredential"):
		return &apiError{Status: http.StatusUnauthorized, Code: codeCredentials, Message: "no credentials: neither a key nor an Azure identity was found"}
	case errors.Is(err, context.DeadlineExceeded):
		return remote.Again(&lostError{errors.New("the server does not answer in time")}, 0)
	}
	return remote.Again(&lostError{withoutURL(err)}, 0)
}

// message is the first line of the answer's text; the rest are request ids.
func message(e *azcore.ResponseError) string {
	if e.RawResponse == nil || e.RawResponse.Body == nil {
		return ""
	}
	var doc struct {
		Message string `xml:"Message"`
	}
	if xml.NewDecoder(e.RawResponse.Body).Decode(&doc) != nil {
		return ""
	}
	text, _, _ := strings.Cut(strings.TrimSpace(doc.Message), "\n")
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return strings.TrimSuffix(text, ".")
}

func retryAfter(resp *http.Response) time.Duration {
	if resp == nil {
		return 0
	}
	d, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
	if err != nil || d < 0 {
		return 0
	}
	return min(d, 2*time.Minute)
}
