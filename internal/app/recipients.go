package app

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// recipients parses age public keys; options replace the configuration's list.
func (a *App) recipients(keys, files []string) ([]age.Recipient, error) {
	if len(keys) == 0 && len(files) == 0 {
		keys, files = a.conf.Recipients, a.conf.RecipientFiles
	}
	var out []age.Recipient
	for i, k := range keys {
		if strings.Contains(strings.ToUpper(k), "AGE-SECRET-KEY-") {
			return nil, problem.New(problem.Usage, "a recipient is an identity, which is secret").
				WithHint("give its public key, the one that begins with age1; \"age-keygen -y FILE\" prints it").
				WithHint("the identity now stands in your shell's history: make a new one")
		}
		r, err := age.ParseRecipients(strings.NewReader(k))
		if err != nil {
			// Whatever it is, it may be a secret that was put there by mistake.
			return nil, problem.New(problem.Usage, "recipient number %d is not an age public key", i+1).
				WithHint("it begins with age1 and is printed by age-keygen or \"n8keep init\"")
		}
		out = append(out, r...)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, problem.Wrap(missingOr(err, problem.Usage), err, "reading recipients").WithHint("name a file with one public key a line: --recipient-file FILE")
		}
		r, err := age.ParseRecipients(io.LimitReader(f, 1<<20))
		f.Close()
		if err != nil {
			return nil, problem.New(problem.Usage, "file %q has a line that is not an age public key", file).
				WithHint("one key that begins with age1 a line; lines that begin with # are comments")
		}
		out = append(out, r...)
	}
	if len(out) == 0 {
		return nil, problem.New(problem.Usage, "no recipient: nobody could open the archive").
			WithHint("give a public key with --recipient age1..., made by age-keygen or \"n8keep init\", away from this host")
	}
	return out, nil
}

// missingOr is NotFound for a file that is not there, else kind.
func missingOr(err error, kind problem.Kind) problem.Kind {
	if errors.Is(err, fs.ErrNotExist) {
		return problem.NotFound
	}
	return kind
}

// Identities reads age identities from files, as age-keygen writes them; ask is
// called for the passphrase of an encrypted one.
func Identities(files []string, ask func(prompt string) (secret.String, error)) ([]age.Identity, error) {
	var out []age.Identity
	for _, file := range files {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, problem.Wrap(problem.NotFound, err, "reading identity").WithHint("name the file with the private key that belongs to a recipient: --identity FILE")
		}
		if err != nil {
			return nil, problem.Wrap(problem.Usage, err, "reading identity").WithHint("the user who runs n8keep must be able to read it")
		}
		ids, err := parseIdentities(f, file, ask)
		f.Close()
		if err != nil {
			return nil, err
		}
		out = append(out, ids...)
	}
	if len(out) == 0 {
		return nil, problem.New(problem.Usage, "no identity to open the archive with").
			WithHint("give the file with the private key that belongs to a recipient: --identity FILE")
	}
	return out, nil
}

// parseIdentities reads identities in clear, or encrypted with a passphrase by
// "age -p", with or without armor.
func parseIdentities(f *os.File, name string, ask func(string) (secret.String, error)) ([]age.Identity, error) {
	in := bufio.NewReader(io.LimitReader(f, 1<<20))
	begin, err := in.Peek(len(armor.Header))
	if err != nil && err != io.EOF {
		return nil, problem.Wrap(problem.Usage, err, "reading identity %q", name)
	}
	var text io.Reader = in
	armored := string(begin) == armor.Header
	if armored {
		text = armor.NewReader(in)
	}
	if armored || strings.HasPrefix(string(begin), "age-encryption.org/v1") {
		pass, err := ask("passphrase for identity " + name)
		if err != nil {
			return nil, err
		}
		id, err := age.NewScryptIdentity(pass.Reveal())
		if err != nil {
			return nil, problem.Wrap(problem.Usage, err, "identity %q", name)
		}
		if text, err = age.Decrypt(text, id); err != nil {
			return nil, problem.New(problem.NoIdentity, "the passphrase does not open identity %q", name).WithHint("try again; nothing was changed")
		}
	}
	ids, err := age.ParseIdentities(text)
	if err != nil {
		// The parser's own text may quote a line of the file.
		return nil, problem.New(problem.Usage, "file %q holds no age identity", name).
			WithHint("its lines begin with AGE-SECRET-KEY-; a public key (age1...) opens nothing")
	}
	return ids, nil
}
