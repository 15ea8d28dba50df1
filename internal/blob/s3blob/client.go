package s3blob

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/n8keep/n8keep/internal/problem"
)

const (
	defaultStall = time.Minute
	// Some services put the parts of an upload together, byte by byte, before they
	// answer; they send nothing meanwhile.
	slowStall = 30 * time.Minute
)

// Underscores and capitals stand in the names of old buckets and of other services.
var bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$`)

// New returns the store. It reads credentials files and asks nobody; what is
// wrong with the credentials themselves shows with the first request.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Env == nil {
		cfg.Env = func(string) (string, bool) { return "", false }
	}
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	if (cfg.Lock == "") != (cfg.Retain <= 0) {
		return nil, fmt.Errorf("opening target %q: lock and retention go together", cfg.location())
	}
	s := &Store{cfg: cfg, retry: cfg.Retry, objects: map[string]object{}}
	authorities, err := s.authorities()
	if err != nil {
		return nil, err
	}
	conf, err := s.awsConfig(ctx, transport(cfg.Stall, authorities))
	if err != nil {
		return nil, err
	}
	s.client = s3.NewFromConfig(conf, func(o *s3.Options) {
		o.UsePathStyle = cfg.PathStyle
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		o.HTTPClient = dated{conf.HTTPClient, s}
		// The archive has a checksum of its own over every byte.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.Retryer = aws.NopRetryer{} // Store.do tries again, because it knows what may be
		o.AppID = "n8keep"
		o.Logger = logging.Nop{}
		o.ClientLogMode = 0
	})
	s.slow = dated{transport(slowStall, authorities), s}
	return s, nil
}

func (s *Store) opening(kind problem.Kind, err error) *problem.Error {
	return problem.Wrap(kind, err, "opening target %q", s.cfg.location())
}

// authorities are who may sign the service's certificate: nil for those that the
// system trusts, else AWS_CA_BUNDLE besides.
func (s *Store) authorities() (*x509.CertPool, error) {
	path, _ := s.cfg.Env("AWS_CA_BUNDLE")
	if path == "" {
		return nil, nil
	}
	bundle, err := os.ReadFile(path)
	if err != nil {
		return nil, s.opening(problem.NotFound, fmt.Errorf("AWS_CA_BUNDLE %q: %w", path, unwrapPath(err)))
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, s.opening(problem.Usage, fmt.Errorf("AWS_CA_BUNDLE %q holds no certificate", path))
	}
	return pool, nil
}

func (s *Store) awsConfig(ctx context.Context, client *awshttp.BuildableClient) (aws.Config, error) {
	opening, region := s.opening, s.region()
	switch path, isFile := strings.CutPrefix(s.cfg.Credentials, "file:"); {
	case isFile:
		shared, err := config.LoadSharedConfigProfile(ctx, first(s.cfg.Profile, "default"), func(o *config.LoadSharedConfigOptions) {
			o.CredentialsFiles, o.ConfigFiles, o.Logger = []string{path}, []string{}, logging.Nop{}
		})
		if _, statErr := os.Stat(path); statErr != nil {
			return aws.Config{}, opening(problem.NotFound, fmt.Errorf("credentials file %q: %w", path, unwrapPath(statErr)))
		}
		if err != nil || !shared.Credentials.HasKeys() {
			// The library's errors may quote lines of the file.
			return aws.Config{}, opening(problem.Usage, fmt.Errorf("credentials file %q has no keys in profile %q", path, first(s.cfg.Profile, "default"))).
				WithHint("its lines are [default], aws_access_key_id = ..., aws_secret_access_key = ...")
		}
		return aws.Config{Region: region, HTTPClient: client, Credentials: static(shared.Credentials)}, nil
	case s.cfg.Credentials == "env", s.envKeys().HasKeys() && s.cfg.Credentials == "" && s.cfg.Profile == "":
		keys := s.envKeys()
		if !keys.HasKeys() {
			return aws.Config{}, opening(problem.Usage, errors.New("AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set")).
				WithHint("set both, or leave credentials=env out of the URL to search where Amazon's tools do")
		}
		if s.cfg.Credentials == "env" {
			return aws.Config{Region: region, HTTPClient: client, Credentials: static(keys)}, nil
		}
	case s.cfg.Credentials != "":
		return aws.Config{}, opening(problem.Usage, errors.New(`credentials are neither "env" nor "file:PATH"`))
	}
	options := []func(*config.LoadOptions) error{config.WithHTTPClient(client), config.WithLogger(logging.Nop{})}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	if s.cfg.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.cfg.Profile))
	}
	if keys := s.envKeys(); keys.HasKeys() && s.cfg.Profile == "" {
		options = append(options, config.WithCredentialsProvider(static(keys)))
	}
	conf, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		var missing config.SharedConfigProfileNotExistError
		if errors.As(err, &missing) {
			return aws.Config{}, opening(problem.NotFound, fmt.Errorf("there is no profile %q in ~/.aws", s.cfg.Profile))
		}
		return aws.Config{}, opening(problem.Usage, errors.New("the configuration files or variables of Amazon's tools cannot be read")).
			WithHint(`see what "aws configure list" says, or give credentials=file:PATH in the URL`)
	}
	if conf.Region == "" {
		conf.Region = "us-east-1"
	}
	return conf, nil
}

// region is "" when Amazon's configuration files are to say it.
func (s *Store) region() string {
	if s.cfg.Region != "" {
		return s.cfg.Region
	}
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if v, ok := s.cfg.Env(name); ok && v != "" {
			return v
		}
	}
	if s.cfg.Credentials != "" {
		return "us-east-1"
	}
	return ""
}

func (s *Store) envKeys() aws.Credentials {
	get := func(name string) string { v, _ := s.cfg.Env(name); return v }
	return aws.Credentials{AccessKeyID: get("AWS_ACCESS_KEY_ID"), SecretAccessKey: get("AWS_SECRET_ACCESS_KEY"), SessionToken: get("AWS_SESSION_TOKEN")}
}

func static(c aws.Credentials) aws.CredentialsProvider {
	return credentials.StaticCredentialsProvider{Value: c}
}

// transport is the SDK's own, with connections that end when nothing moves on them.
func transport(stall time.Duration, authorities *x509.CertPool) *awshttp.BuildableClient {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &moving{Conn: c, stall: stall}, nil
		}
		t.MaxIdleConnsPerHost = 4
		t.WriteBufferSize = 64 << 10
		if authorities != nil {
			t.TLSClientConfig.RootCAs = authorities
		}
	})
}

// moving is a connection whose reads and writes fail when nothing was read or
// written for a time. A write gives the pending read its time again: the answer
// to a long upload comes at its end.
type moving struct {
	net.Conn
	stall time.Duration
	stood atomic.Bool // it stood still for that long
}

func (c *moving) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, c.why(err)
	}
	n, err := c.Conn.Read(p)
	return n, c.why(err)
}

func (c *moving) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, c.why(err)
	}
	n, err := c.Conn.Write(p)
	return n, c.why(err)
}

// why: of a pending read and write one meets the deadline, and the other one the
// connection that was closed for it.
func (c *moving) why(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.stood.Store(true)
	case errors.Is(err, net.ErrClosed) && c.stood.Load():
		return os.ErrDeadlineExceeded
	}
	return err
}

// dated learns the service's time from every answer.
type dated struct {
	next  s3.HTTPClient
	store *Store
}

func (d dated) Do(r *http.Request) (*http.Response, error) {
	resp, err := d.next.Do(r)
	if err != nil {
		return nil, err
	}
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil && resp.Header.Get("Age") == "" {
		d.store.learn(t)
	}
	return resp, nil
}

// learn takes the service's time, whose resolution is a second.
func (s *Store) learn(t time.Time) {
	offset := t.Sub(s.cfg.Now())
	if offset.Abs() < 2*time.Second {
		offset = 0
	}
	s.offset.Store(int64(offset))
	s.heard.Store(t.UnixNano())
	s.answers.Add(1)
}

// clock asks for the bucket's location-free head, which needs no permission to be
// answered with the time.
func (s *Store) clock(ctx context.Context) (time.Time, error) {
	var at time.Time
	err := s.do(ctx, "asking for the time", func(int) error {
		before := s.answers.Load()
		_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.cfg.Bucket})
		if s.answers.Load() != before {
			at = time.Unix(0, s.heard.Load())
			return nil
		}
		if err == nil {
			err = errors.New("its answer has no Date")
		}
		return err
	})
	return at, err
}

// parsePartSize takes "64MiB".
func parsePartSize(s string) (int64, error) {
	n, ok := strings.CutSuffix(s, "MiB")
	mib, err := strconv.Atoi(n)
	if !ok || err != nil || mib < 5 || mib > 5120 {
		return 0, errors.New(`want 5MiB to 5120MiB`)
	}
	return int64(mib) << 20, nil
}

func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
