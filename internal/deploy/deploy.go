// Package deploy prepares the deployment files that a user names for an archive
// (compose files, env files, Kubernetes manifests, Helm values, systemd units,
// JSON): it replaces the secrets in them by keyed fingerprints and leaves every
// other byte as it is, comments, order and quotes included.
//
// What counts as a secret: a value whose name says so (password, token, key,
// credential, licence and so on, also in "KEY=VALUE" items, command line flags,
// embedded files and comments), all data of a Kubernetes Secret, all values
// below a name such as "secret" or "credentials", passwords in URLs, private
// keys, authorization headers, tokens of well-known shape, password hashes, and
// other copies of a value that was redacted. Where it is not sure, it redacts:
// a setting lost from a copy is found again, a secret in a copy is not taken
// back. References stay (${VAR}, secretKeyRef, *_FILE paths), their default
// values do not. A long random value under a harmless name stays and is reported.
//
// It refuses files that it cannot read with certainty: binary, over 4 MiB, not
// parsable, or different in structure after the redaction. A file that is kept
// with its secrets (KeepSecrets) is taken in any text form, but the instance key
// is removed from it all the same.
//
// A redacted value is "REDACTED:" and 16 hexadecimal digits of a keyed digest,
// which tells whoever has the instance key whether another value is the same.
// Redacting a redacted file changes nothing; that form does not change between
// versions.
package deploy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/n8keep/n8keep/internal/problem"
)

// MaxSize is the largest file that is taken, in bytes.
const MaxSize = 4 << 20

// Digest is the keyed digest of a plaintext, at least 16 lower-case hexadecimal
// digits. The row is the path of the value in its file, such as
// "services.n8n.environment.DB_POSTGRESDB_PASSWORD".
type Digest func(row string, plaintext []byte) string

// Ranges returns where the instance key stands in b, as from and to offsets. It
// is called with whole files, and with every single value in its decoded form,
// for keys that are too short to be looked for anywhere else.
type Ranges func(b []byte) [][2]int

// Config is what Redact works with. Digest and Needle are required.
type Config struct {
	Digest      Digest
	Needle      Ranges // the instance key, in every form it could have
	KeepSecrets bool   // replace the instance key only
}

// Reason says why a value was redacted or reported.
type Reason string

// The reasons.
const (
	ByName        Reason = "name"              // its name says that it is a secret
	BelowName     Reason = "below name"        // a name above it says so
	KubeSecret    Reason = "kubernetes secret" // it is in the data of a Secret
	URLPassword   Reason = "url password"
	PrivateKey    Reason = "private key"
	Authorization Reason = "authorization"
	TokenShape    Reason = "token"    // it has the shape of a token that some service gives out
	HashShape     Reason = "hash"     // it is the hash of a password
	Flag          Reason = "flag"     // it follows a command line flag for secrets
	CopyOf        Reason = "copy"     // it is also elsewhere in the file, where it was redacted
	Needle        Reason = "key"      // it is the instance key
	Random        Reason = "random"   // it looks random; reported only
	Repeated      Reason = "repeated" // a redacted value is part of a name; reported only
)

// Redaction is one value that was replaced or reported.
type Redaction struct {
	Row    string // path of the value; "comment" for what stands in a comment
	Line   int    // first line, from 1
	Reason Reason
}

// Result is the redacted file. Reported values were left as they are.
type Result struct {
	Content  []byte
	Redacted []Redaction
	Reported []Redaction
}

// Redact returns content without its secrets. The name chooses how the content
// is read, by its ending, or, where that says nothing, by the content.
func Redact(name string, content []byte, cfg Config) (Result, error) {
	if cfg.Digest == nil || cfg.Needle == nil {
		return Result{}, problem.New(problem.Unexpected, "redacting %q: no digest or no needle", name)
	}
	if len(content) > MaxSize {
		return Result{}, problem.New(problem.Usage, "deployment file %q has %d bytes, over the limit of %d", name, len(content), MaxSize).
			WithHint("leave it out; keep large files with the rest of your configuration")
	}
	if bytes.IndexByte(content, 0) >= 0 {
		return Result{}, problem.New(problem.Usage, "deployment file %q is binary", name).
			WithHint("leave it out; deployment files are text: compose, env, Kubernetes, systemd, JSON")
	}
	src := string(content)
	doc, err := parse(name, src)
	if err != nil && !cfg.KeepSecrets {
		return Result{}, problem.New(problem.Usage, "deployment file %q cannot be redacted: %v", name, err).
			WithHint("leave it out, or keep it with all its secrets by --redact=false")
	}
	r := &redactor{cfg: cfg, src: src, marks: redactedPart.FindAllStringIndex(src, -1)}
	if err == nil {
		doc.visit(r)
		r.comments(doc.comments())
	} else {
		r.words()
	}
	r.rawNeedle()
	if !cfg.KeepSecrets && doc != nil {
		r.copies(doc)
	}
	res, err := r.apply()
	if err != nil {
		return Result{}, problem.Wrap(problem.Unexpected, err, "redacting %q", name)
	}
	if len(cfg.Needle(res.Content)) > 0 {
		return Result{}, problem.New(problem.Damaged, "the instance key is still in deployment file %q after its redaction", name).
			WithHint("leave it out, and report the form that the key has in it")
	}
	if doc != nil && !sameShape(name, doc, string(res.Content), r.touchesName(doc)) {
		return Result{}, problem.New(problem.Usage, "deployment file %q would not have the same structure after its redaction", name).
			WithHint("leave it out, or keep it with all its secrets by --redact=false")
	}
	return res, nil
}

// document is a parsed file.
type document interface {
	visit(r *redactor)  // hands every value to r
	comments() [][2]int // in order
	names() [][2]int    // the spans of all names, in order
	shape() []string    // the structure without the values; a name starts with "="
}

// parse reads the file as what its name or its content says.
func parse(name, src string) (document, error) {
	if !utf8.ValidString(src) {
		return nil, fmt.Errorf("it is not UTF-8 text")
	}
	kind := kindByName(name)
	switch kind {
	case "json":
		return parseJSON(src)
	case "yaml":
		return parseYAML(src)
	case "env":
		return parseEnv(src)
	case "unit":
		if startsSection(src) {
			return parseUnit(src)
		}
		return parseEnv(src)
	}
	trimmed := strings.TrimSpace(strings.TrimPrefix(src, "\ufeff"))
	if strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[\n") || strings.HasPrefix(trimmed, "[{") {
		if doc, err := parseJSON(src); err == nil {
			return doc, nil
		}
	}
	if startsSection(src) {
		return parseUnit(src)
	}
	if doc, err := parseEnv(src); err == nil {
		return doc, nil
	}
	if doc, err := parseYAML(src); err == nil {
		return doc, nil
	}
	return nil, fmt.Errorf("it is no compose, env, Kubernetes, systemd or JSON file")
}

func kindByName(name string) string {
	base := strings.ToLower(name[strings.LastIndexAny(name, `/\`)+1:])
	switch ext := base[strings.LastIndexByte(base, '.')+1:]; ext {
	case "json":
		return "json"
	case "yaml", "yml":
		return "yaml"
	case "service", "socket", "timer", "mount", "path", "target", "slice", "container", "pod", "kube", "volume", "network",
		"conf", "cfg", "ini", "toml", "properties":
		return "unit"
	}
	if envName.MatchString(base) {
		return "env"
	}
	return ""
}

func sameShape(name string, before document, content string, namesChanged bool) bool {
	after, err := parse(name, content)
	if err != nil {
		return false
	}
	a, b := before.shape(), after.shape()
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && !(namesChanged && a[i][0] == '=' && b[i][0] == '=') {
			return false
		}
	}
	return true
}
