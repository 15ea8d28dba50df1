// Package s3blob is a [blob.Store] in a bucket of Amazon S3 or of a service that
// speaks its protocol.
//
// An object is uploaded in one request when it is small and in parts when it is
// not, with memory for two parts, under the condition that nothing has its name
// (If-None-Match). A part or a request that fails is sent again; an upload that
// cannot go on is aborted, and what an abort does not reach (the host died, or
// the network) is invisible and removed by the lifecycle rule that [Policy]
// prints. With a lock, every object carries its retention from the first moment,
// so there is none in which a thief of the credentials could delete it.
//
// A writer needs no permission but to put: Put never lists, reads or asks. It
// asks only when the answer to a request was lost and the next one says that the
// name is taken: whether that is ours. An identity that may not ask takes it for
// ours, because names are made up at random. When the next answer says only that
// the upload is gone, which an abort explains as well, such an identity fails.
//
// In a bucket with versions, overwriting and plain deletion hide an object
// and do not destroy it. So reading takes of each name the version that the service
// lists last, which was stored first whatever the times say,
// looks through delete markers, and reports both in [blob.Info.Altered]. An
// identity that may not list versions sees what the bucket shows; the store then
// says so in [blob.Properties.Caveat], or refuses when its URL promises a lock.
//
// What it refuses: secrets inside the URL, services without If-None-Match, and,
// but for the canaries of Probe,
// shortening or bypassing a retention. It sends no secret anywhere; the service
// is trusted with ciphertext and with its own clock. Objects that other programs
// put below the prefix with names that [blob.CheckName] refuses are not seen.
// Nothing about an object is kept outside of it, so those of older releases stay
// readable.
package s3blob

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// Config is a bucket and how to reach it. [Parse] makes one from a URL.
type Config struct {
	Bucket string
	Prefix string // "" or ending in a slash

	Endpoint  string // "" for Amazon's own, or what AWS_ENDPOINT_URL_S3 says
	Region    string // "" for the environment's, else us-east-1
	PathStyle bool   // https://endpoint/bucket instead of https://bucket.endpoint

	Lock   string        // "", "governance" or "compliance": on every object
	Retain time.Duration // how long; set exactly when Lock is

	SSE          string // x-amz-server-side-encryption: "", "AES256", "aws:kms" or "aws:kms:dsse"
	KMSKey       string // the key's id or ARN; "" for the account's default
	StorageClass string // "" for the bucket's default
	Checksum     string // "crc32" ("" is the same), "sha256", "md5" or "none": what the service checks on arrival

	// Credentials are "" for the standard chain of Amazon's tools, "env" for the
	// AWS_* variables alone, or "file:PATH" for a shared credentials file.
	Credentials string
	Profile     string // of the chain or file; "" for the default

	// PartSize is the size of every part; 0 begins with 8 MiB and grows, so that
	// 1 TB fits into the 10,000 parts that S3 allows. Some services want all
	// parts of one size.
	PartSize int64

	Env    func(string) (string, bool) // nil: no variables
	Now    func() time.Time            // nil: time.Now
	Logger *slog.Logger                // nil: none
	Retry  remote.Retry                // how patient it is
	Stall  time.Duration               // a connection on which nothing moves for so long is given up; 0: one minute
}

const whereSecrets = `give the credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in ~/.aws/credentials, or in a file that the URL names with credentials=file:PATH`

// Parse reads s3://BUCKET/PREFIX?parameters. It does no I/O; env is asked later,
// by [New]. Errors are of kind Usage and repeat no value of the URL.
func Parse(u *url.URL, env func(string) (string, bool)) (Config, error) {
	bad := func(format string, args ...any) (Config, error) {
		return Config{}, problem.New(problem.Usage, "target s3://...: "+format, args...)
	}
	o, err := remote.ParseOptions(u, whereSecrets, "endpoint", "region", "path_style", "lock", "retain", "sse", "kms_key",
		"storage_class", "checksum", "credentials", "profile", "part_size")
	if err != nil {
		return Config{}, err
	}
	if u.User != nil {
		return bad("a user in the URL")
	}
	c := Config{Bucket: u.Host, Region: o.Text("region"), KMSKey: o.Text("kms_key"), StorageClass: o.Text("storage_class"),
		Credentials: o.Text("credentials"), Profile: o.Text("profile"), Env: env}
	if !bucketName.MatchString(c.Bucket) {
		return bad("no bucket: want s3://BUCKET/PREFIX")
	}
	if c.Prefix, err = remote.Prefix(u.Scheme, u.Path); err != nil {
		return Config{}, err
	}
	if c.Endpoint, err = o.Endpoint("endpoint"); err != nil {
		return Config{}, err
	}
	if c.Retain, c.Lock, err = o.Retention(); err != nil {
		return Config{}, err
	}
	if c.SSE, err = o.Choice("sse", "AES256", "aws:kms", "aws:kms:dsse"); err != nil {
		return Config{}, err
	}
	if c.Checksum, err = o.Choice("checksum", "crc32", "sha256", "md5", "none"); err != nil {
		return Config{}, err
	}
	style, err := o.Choice("path_style", "true", "false")
	if err != nil {
		return Config{}, err
	}
	c.PathStyle = style == "true"
	if c.KMSKey != "" && !strings.HasPrefix(c.SSE, "aws:kms") {
		return bad(`"kms_key" without sse=aws:kms`)
	}
	if c.Lock != "" && c.Checksum == "none" {
		return bad("checksum=none with lock: locked objects need a checksum")
	}
	if c.Credentials != "" && c.Credentials != "env" {
		if _, err := o.File("credentials"); err != nil {
			return Config{}, o.Bad("credentials", `want "env" or "file:PATH"`)
		}
	}
	if size := o.Text("part_size"); size != "" {
		if c.PartSize, err = parsePartSize(size); err != nil {
			return Config{}, o.Bad("part_size", err.Error())
		}
	}
	return c, nil
}

// location is the URL for people and for [blob.Properties].
func (c Config) location() string {
	u := url.URL{Scheme: "s3", Host: c.Bucket, Path: "/" + strings.TrimSuffix(c.Prefix, "/")}
	if c.Prefix == "" {
		u.Path = ""
	}
	if c.Endpoint != "" {
		u.RawQuery = "endpoint=" + c.Endpoint
	}
	return u.String()
}

// Store keeps objects below one prefix of one bucket. It is safe for use from
// several goroutines.
type Store struct {
	cfg     Config
	client  *s3.Client
	slow    s3.HTTPClient // for requests that a service may take minutes to answer
	retry   remote.Retry
	offset  atomic.Int64 // nanoseconds that the service's clock is ahead of ours
	heard   atomic.Int64 // what its last answer said, in Unix nanoseconds
	answers atomic.Int64 // how many had a Date

	mu      sync.Mutex
	plain   string            // why versions cannot be listed; "" while they can
	objects map[string]object // what List saw, so that Get need not ask again
}

var _ interface {
	blob.Store
	blob.Prober
	blob.Clocked
} = (*Store)(nil)

// Properties implements [blob.Store].
func (s *Store) Properties() blob.Properties {
	p := blob.Properties{Location: s.cfg.location(), AtomicPut: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Versioned = s.plain == "" && s.cfg.Lock != ""
	if s.plain != "" {
		p.Caveat = "older versions of objects are not seen: " + s.plain
	}
	return p
}

// now is the service's time, as far as its answers have told it.
func (s *Store) now() time.Time { return s.cfg.Now().Add(time.Duration(s.offset.Load())) }

// Clock implements [blob.Clocked]: it asks the service for anything and reads the
// time off its answer, whatever it is.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	return s.clock(ctx)
}
