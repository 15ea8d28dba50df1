package azureblob

import (
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// Config says where a store is and how to get in. Parse fills what a URL can say.
type Config struct {
	Account   string
	Container string
	Prefix    string // "" or ends in "/"

	// Endpoint is the account's blob service URL; "" for
	// https://ACCOUNT.blob.core.windows.net, or what a connection string says.
	Endpoint string

	// Credentials is "env" (or "") for the environment (AZURE_STORAGE_CONNECTION_STRING,
	// AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_KEY, in this order) and then Azure's
	// default chain, "identity" for the default chain alone, "none" for requests
	// without, or "file:PATH" for a file that holds a connection string, a shared
	// access signature or an account key.
	Credentials string

	// Retain is how long a stored blob is locked; zero for not at all. Lock says how:
	// "governance" (policy mode Unlocked) or "compliance" (Locked).
	Retain time.Duration
	Lock   string

	Tier string // access tier: hot, cool, cold; "" for the account's

	Env func(string) (string, bool) // environment; required
	Now func() time.Time            // nil for time.Now
	// Spool is the folder for blobs that must be sent in one request, see the package
	// comment; "" for the system's.
	Spool string
	// Transport is for tests; nil for the SDK's.
	Transport policy.Transporter
	// Retry is for tests; the zero value is patient for about two minutes.
	Retry remote.Retry
	// BlockSize is the size of the first blocks; 0 for 8 MiB.
	BlockSize int
}

const whereSecretsBelong = `put a connection string, a shared access signature or an account key into a 0600 file named by credentials=file:PATH, or into AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_KEY`

var (
	accountPattern   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containerPattern = regexp.MustCompile(`^(\$root|[a-z0-9](-?[a-z0-9])+)$`)
)

// Parse reads azure://ACCOUNT/CONTAINER/PREFIX with the parameters endpoint,
// credentials, retain, lock and storage_class (the access tier). Its errors are of
// kind Usage and repeat no value of a parameter.
func Parse(u *url.URL, env func(string) (string, bool)) (Config, error) {
	c := Config{Env: env}
	o, err := remote.ParseOptions(u, whereSecretsBelong, "endpoint", "credentials", "retain", "lock", "storage_class")
	if err != nil {
		return c, err
	}
	usage := func(msg string) error {
		return problem.New(problem.Usage, "target %s://...: %s", u.Scheme, msg).WithHint("write azure://ACCOUNT/CONTAINER/PREFIX")
	}
	if u.User != nil {
		return c, problem.New(problem.Usage, "target %s://...: a user inside the URL", u.Scheme).WithHint("%s", whereSecretsBelong)
	}
	if !accountPattern.MatchString(u.Host) {
		if strings.Contains(u.Host, ".") {
			return c, usage("a host name where the account's name belongs")
		}
		return c, usage("the account is not 3 to 24 lower-case letters and digits")
	}
	c.Account = u.Host
	container, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !containerPattern.MatchString(container) || len(container) > 63 {
		return c, usage("the container is not 3 to 63 lower-case letters, digits and single hyphens")
	}
	c.Container = container
	if c.Prefix, err = remote.Prefix(u.Scheme, rest); err != nil {
		return c, err
	}
	if c.Endpoint, err = o.Endpoint("endpoint"); err != nil {
		return c, err
	}
	c.Credentials = o.Text("credentials")
	switch c.Credentials {
	case "", "env", "identity", "none":
	default:
		if _, err := o.File("credentials"); err != nil {
			return c, o.Bad("credentials", `want "env", "identity", "none" or "file:PATH"`)
		}
	}
	if c.Retain, c.Lock, err = o.Retention(); err != nil {
		return c, err
	}
	if c.Tier, err = o.Choice("storage_class", "hot", "cool", "cold"); err != nil {
		return c, err
	}
	return c, nil
}

// location is the URL that people are shown.
func (c Config) location() string {
	u := url.URL{Scheme: "azure", Host: c.Account, Path: "/" + c.Container}
	if c.Prefix != "" {
		u.Path += "/" + strings.TrimSuffix(c.Prefix, "/")
	}
	if c.Endpoint != "" {
		u.RawQuery = "endpoint=" + c.Endpoint
	}
	return u.String()
}
