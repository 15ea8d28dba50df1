package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// InitOptions are the options of "init".
type InitOptions struct {
	Instance    InstanceOptions
	Target      string
	Recipients  []string
	IdentityOut string
	PostQuantum bool
	Out         string // the file to write; "" is the user's configuration folder
}

// Init writes a configuration for one instance and makes the signing key. The
// identity is what opens the archives when one was made here: the caller shows
// it or, when it was written to a file, does nothing.
func (a *App) Init(ctx context.Context, o InitOptions) (*api.Init, secret.String, error) {
	none := secret.String{}
	in, err := a.instance(o.Instance)
	if err != nil {
		return nil, none, err
	}
	if o.Target == "" {
		return nil, none, problem.New(problem.Usage, "no target: where archives go").WithHint("give a folder with --target DIR, best on another disk or machine")
	}
	out := o.Out
	if out == "" {
		dir, err := a.host.ConfigDir()
		if err != nil {
			return nil, none, err
		}
		out = filepath.Join(dir, config.FileName)
	}
	if _, err := os.Lstat(out); err == nil {
		return nil, none, problem.New(problem.Usage, "file %q exists already", out).WithHint("edit it, or write another with --out FILE")
	}
	if o.IdentityOut != "" && len(o.Recipients) > 0 {
		return nil, none, problem.New(problem.Usage, "--identity-out makes a new identity, but recipients are given").
			WithHint("leave out --recipient, or --identity-out")
	}
	doc := &api.Init{Config: out, Warnings: []string{}}
	recipients, identity := o.Recipients, none
	if len(recipients) == 0 {
		var recipient string
		if identity, recipient, err = newIdentity(o.PostQuantum); err != nil {
			return nil, none, err
		}
		recipients = []string{recipient}
	}
	parsed, err := a.recipients(recipients, nil)
	if err != nil {
		return nil, none, err
	}
	if _, err := archive.RecipientKind(parsed); err != nil {
		return nil, none, problem.Wrap(problem.Usage, err, "recipients")
	}
	text, err := a.configText(in, o.Target, recipients)
	if err != nil {
		return nil, none, err
	}
	if o.IdentityOut != "" && !identity.IsZero() {
		if err := writeNew(o.IdentityOut, []byte(identity.Reveal()+"\n"), "the identity"); err != nil {
			return nil, none, err
		}
		doc.IdentityOut = o.IdentityOut
		doc.Warnings = append(doc.Warnings, "the identity is on this host: whoever owns it can read the archives; move it away")
	}
	keyPath, err := a.signingKeyPath()
	if err != nil {
		return nil, none, err
	}
	key, made, err := backup.LoadSigningKey(keyPath, true)
	if err != nil {
		return nil, none, err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return nil, none, problem.Wrap(problem.Unexpected, err, "making the configuration folder")
	}
	if err := writeNew(out, text, "the configuration"); err != nil {
		return nil, none, err
	}
	signer := archive.SignerOf(key)
	doc.Recipient, doc.Signer, doc.SignerKey = strings.Join(recipients, " "), signer.Fingerprint(), signer.String()
	doc.SigningKey, doc.SigningKeyNew = keyPath, made
	flag := ""
	if o.Out != "" {
		flag = fmt.Sprintf(" --config %q", o.Out)
	}
	doc.Next = []string{"next: n8keep census" + flag, "then: n8keep backup create" + flag}
	return doc, identity, nil
}

func newIdentity(postQuantum bool) (secret.String, string, error) {
	if postQuantum {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return secret.String{}, "", problem.Wrap(problem.Unexpected, err, "making an identity")
		}
		return secret.NewString(id.String()), id.Recipient().String(), nil
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return secret.String{}, "", problem.Wrap(problem.Unexpected, err, "making an identity")
	}
	return secret.NewString(id.String()), id.Recipient().String(), nil
}

// configText is the file as a person would write it; it must parse.
func (a *App) configText(in *instance, target string, recipients []string) ([]byte, error) {
	abs := func(path string) string {
		if p, err := filepath.Abs(path); err == nil {
			return p
		}
		return path
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# n8keep: see docs/operators.md for every setting. There are no secrets in this file.\ninstances:\n  %s:\n", in.name)
	if in.dir != "" {
		fmt.Fprintf(&b, "    n8n_dir: %q\n", abs(in.dir))
	}
	if in.keyFile != "" {
		fmt.Fprintf(&b, "    key: %q\n", "file:"+abs(in.keyFile))
	}
	if in.prefix != "" {
		fmt.Fprintf(&b, "    table_prefix: %q\n", in.prefix)
	}
	if !in.conf.Database.IsZero() {
		fmt.Fprintf(&b, "    database: %q\n", in.conf.Database.String())
	} else if in.address != "" {
		fmt.Fprintf(&b, "    database: %q\n", in.address)
	}
	fmt.Fprintf(&b, "targets:\n  default:\n    path: %q\nrecipients:\n", abs(strings.TrimPrefix(target, "file://")))
	for _, r := range recipients {
		fmt.Fprintf(&b, "  - %s\n", r)
	}
	text := []byte(b.String())
	if _, err := config.Parse(text, config.FileName, ""); err != nil {
		return nil, err
	}
	return text, nil
}

func writeNew(path string, content []byte, what string) error {
	f, err := durable.Create(path, 0o600)
	if err != nil {
		return problem.Wrap(problem.Usage, err, "writing %s", what)
	}
	defer f.Abort()
	if _, err := f.Write(content); err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing %s", what)
	}
	if err := f.CommitNew(); errors.Is(err, fs.ErrExist) {
		return problem.New(problem.Usage, "file %q exists already", path).WithHint("name a new file for %s", what)
	} else if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing %s", what)
	}
	return nil
}
