package config

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
)

// TargetSchemes are the kinds of address that a target can have.
func TargetSchemes() []string { return []string{"file", "s3", "gcs", "gs", "azure", "sftp"} }

// secretParameter matches names of parameters whose values are secrets, "sig" of
// Azure's signed addresses among them. References are let through.
var secretParameter = regexp.MustCompile(`(?i)secret|passw|passphrase|token|^(x-amz-|x-goog-)?sig(nature)?$|^sas$|(access|account|private)_?key`)

// CheckTargetURL checks the address of a target: that its kind is known, that it
// names a bucket, container, host or folder, and that it holds no secret. What
// the parameters mean, only the target's own code knows. Errors never repeat s
// but its kind.
func CheckTargetURL(s string) error {
	scheme, _, ok := strings.Cut(s, "://")
	if scheme = strings.ToLower(scheme); !ok {
		return problem.New(problem.Usage, "the address of a target is expected, like s3://BUCKET/PREFIX; a folder is given with path")
	}
	if !slices.Contains(TargetSchemes(), scheme) {
		if looksSecret(scheme) || !schemeName.MatchString(scheme) {
			scheme = "…"
		}
		return problem.New(problem.Usage, "%s:// is no kind of target; known are %s", scheme, strings.Join(TargetSchemes(), ", "))
	}
	u, err := url.Parse(s)
	if err != nil {
		return problem.New(problem.Usage, "the address is malformed (it is not shown here, in case it holds a secret)")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return problem.New(problem.Usage, "the parameters of the address are malformed (they are not shown here, in case they hold a secret)")
	}
	if _, password := u.User.Password(); password || u.User != nil && scheme != "sftp" || secretPart.MatchString(s) {
		return problem.New(problem.Usage, "the address holds a secret or a user, which does not belong into it: %s", secretsOf(scheme))
	}
	for name, values := range query {
		if !secretParameter.MatchString(name) {
			continue
		}
		for _, v := range values {
			if _, err := ParseReference(v); err != nil {
				return problem.New(problem.Usage, "the address holds a secret, which does not belong into it: %s", secretsOf(scheme))
			}
		}
	}
	switch {
	case scheme == "file" && (u.Host != "" || !filepath.IsAbs(u.Path)):
		return problem.New(problem.Usage, "file:///FOLDER is expected, with three slashes")
	case scheme != "file" && u.Hostname() == "":
		return problem.New(problem.Usage, "%s is expected", shapeOf(scheme))
	}
	return nil
}

var schemeName = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,15}$`)

func shapeOf(scheme string) string {
	switch scheme {
	case "azure":
		return "azure://ACCOUNT/CONTAINER/PREFIX"
	case "sftp":
		return "sftp://USER@HOST/FOLDER"
	}
	return scheme + "://BUCKET/PREFIX"
}

// secretsOf says where the secrets of a kind belong.
func secretsOf(scheme string) string {
	switch scheme {
	case "s3":
		return "use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or credentials=file:PATH"
	case "gcs", "gs":
		return "use GOOGLE_APPLICATION_CREDENTIALS, or credentials=file:PATH"
	case "azure":
		return "use the AZURE_ variables, or credentials=file:PATH"
	case "sftp":
		return "use the SSH agent, or key=file:PATH"
	}
	return "a folder needs none"
}

// BackupTargets are the names of the targets that backups of i go to: those it
// names, else the only one there is.
func (c *Config) BackupTargets(i Instance) ([]string, error) {
	if len(i.Targets) > 0 {
		return i.Targets, nil
	}
	name, _, err := c.Target("")
	if err != nil {
		if len(c.Targets) > 1 {
			return nil, problem.New(problem.Usage, "%q has %d targets, and none is named for this instance", c.Path, len(c.Targets)).
				WithHint("say which with --target: %s", strings.Join(slices.Sorted(maps.Keys(c.Targets)), ", ")).
				WithHint("or once and for all in the config: %s", fmt.Sprintf("targets: [%s]", strings.Join(slices.Sorted(maps.Keys(c.Targets)), ", ")))
		}
		return nil, err
	}
	return []string{name}, nil
}
