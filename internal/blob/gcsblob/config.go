package gcsblob

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// Config says where a store is and how to get in. Parse fills what a URL can say.
type Config struct {
	Bucket string
	Prefix string // "" or ends in "/"

	// Endpoint is the base URL of the service; "" for https://storage.googleapis.com.
	// With one that the environment's STORAGE_EMULATOR_HOST gave, requests carry no
	// credentials.
	Endpoint string
	Emulator bool

	// Credentials is "env" (or "") for Google's default chain (the file that
	// GOOGLE_APPLICATION_CREDENTIALS names, the one that "gcloud auth
	// application-default login" makes, the metadata server), "none" for requests
	// without, or "file:PATH" for a JSON file.
	Credentials string

	// Retain is how long a stored object is locked; zero for not at all. Lock says
	// how: "governance" (mode Unlocked) or "compliance" (mode Locked).
	Retain time.Duration
	Lock   string

	StorageClass string // "" for the bucket's
	KMSKey       string // resource name of a Cloud KMS key; "" for the bucket's

	Env  func(string) (string, bool) // environment; required
	Now  func() time.Time            // nil for time.Now
	HTTP *http.Client                // nil for one with sensible limits
	// Retry is for tests; the zero value is patient for about two minutes, once the service has answered.
	Retry remote.Retry
	// ChunkSize is how many bytes a request carries, a multiple of 256 KiB; 0 for 8 MiB.
	ChunkSize int
}

const whereSecretsBelong = `name a service account's JSON file by GOOGLE_APPLICATION_CREDENTIALS=PATH or credentials=file:PATH`

// Parse reads gcs://BUCKET/PREFIX or gs://BUCKET/PREFIX with the parameters
// endpoint, credentials, retain, lock, storage_class and kms_key. Its errors are of
// kind Usage and repeat no value of a parameter.
func Parse(u *url.URL, env func(string) (string, bool)) (Config, error) {
	c := Config{Env: env}
	o, err := remote.ParseOptions(u, whereSecretsBelong, "endpoint", "credentials", "retain", "lock", "storage_class", "kms_key")
	if err != nil {
		return c, err
	}
	if u.User != nil {
		return c, problem.New(problem.Usage, "target %s://...: a user inside the URL", u.Scheme).WithHint("%s", whereSecretsBelong)
	}
	if u.Host == "" || u.Port() != "" {
		return c, problem.New(problem.Usage, "target %s://...: no bucket", u.Scheme).WithHint("write gcs://BUCKET/PREFIX")
	}
	c.Bucket = u.Host
	if c.Prefix, err = remote.Prefix(u.Scheme, u.Path); err != nil {
		return c, err
	}
	if c.Endpoint, err = o.Endpoint("endpoint"); err != nil {
		return c, err
	}
	if host, ok := env("STORAGE_EMULATOR_HOST"); ok && host != "" && c.Endpoint == "" {
		if !strings.Contains(host, "://") {
			host = "http://" + host
		}
		c.Endpoint, c.Emulator = strings.TrimSuffix(host, "/"), true
	}
	c.Credentials = o.Text("credentials")
	if c.Credentials != "" && c.Credentials != "env" && c.Credentials != "none" {
		if _, err := o.File("credentials"); err != nil {
			return c, o.Bad("credentials", `want "env", "none" or "file:PATH"`)
		}
	}
	if c.Retain, c.Lock, err = o.Retention(); err != nil {
		return c, err
	}
	c.StorageClass = strings.ToUpper(o.Text("storage_class"))
	c.KMSKey = o.Text("kms_key")
	return c, nil
}

// location is the URL that people are shown.
func (c Config) location() string {
	u := url.URL{Scheme: "gcs", Host: c.Bucket}
	if c.Prefix != "" {
		u.Path = "/" + strings.TrimSuffix(c.Prefix, "/")
	}
	if c.Endpoint != "" && !c.Emulator {
		u.RawQuery = "endpoint=" + c.Endpoint
	}
	return u.String()
}
