package export

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// CredentialsConfig says what to write where.
type CredentialsConfig struct {
	DB      *n8ndb.DB
	Keys    *n8ndb.Keyset
	Receipt audit.Receipt // of a command that reveals
	// Recipients are those who can open the file, all of one kind. Required.
	Recipients []age.Recipient
	// Out is the file, which must not exist.
	Out string
}

// Sealed is what a file of credentials holds.
type Sealed struct {
	Credentials int
	// Failures are credentials that do not open, and are not in the file.
	Failures []n8ndb.Secret
}

// Credentials writes every credential into one age file: once decrypted, a JSON
// array as n8n's "export:credentials --decrypted" writes it, one credential a
// line. Credentials that do not open are left out and returned; when none opens
// there is no file, and the error is WrongKey.
func Credentials(ctx context.Context, cfg CredentialsConfig) (*Sealed, error) {
	if len(cfg.Recipients) == 0 {
		return nil, problem.New(problem.Usage, "no recipient: nobody could open the credentials")
	}
	f, err := durable.Create(cfg.Out, 0o600)
	if err != nil {
		return nil, problem.Wrap(problem.Usage, err, "writing the credentials").WithHint("name a file in a folder that exists and that this user may write")
	}
	defer f.Abort()
	// The path in an error of the file is that of a temporary file.
	to := &writeErrors{w: f}
	w, err := age.Encrypt(to, cfg.Recipients...)
	if to.err != nil {
		return nil, cfg.notWritten(to.err)
	}
	if err != nil {
		return nil, problem.Wrap(problem.Usage, err, "encrypting the credentials").WithHint("give recipients of one kind, all age1... or all age1pq1...")
	}
	res := &Sealed{}
	separator := "[\n"
	err = cfg.DB.ExportCredentials(ctx, cfg.Receipt, cfg.Keys, func(c n8ndb.PortableCredential) error {
		if !c.Opens {
			res.Failures = append(res.Failures, c.Secret)
			return nil
		}
		res.Credentials++
		if _, err := io.WriteString(w, separator); err != nil {
			return err
		}
		separator = ",\n"
		_, err := w.Write(c.JSON)
		return err
	})
	if to.err != nil {
		return nil, cfg.notWritten(to.err)
	}
	if err != nil {
		return nil, err
	}
	if res.Credentials == 0 && len(res.Failures) > 0 {
		return res, problem.New(problem.WrongKey, "the instance key opens none of %d credentials", len(res.Failures)).
			WithHint("nothing was written")
	}
	end := "\n]\n"
	if res.Credentials == 0 {
		end = "[]\n"
	}
	if _, err := io.WriteString(w, end); err != nil {
		return nil, cfg.notWritten(err)
	}
	if err := w.Close(); err != nil {
		return nil, cfg.notWritten(err)
	}
	if err := f.CommitNew(); errors.Is(err, fs.ErrExist) {
		return nil, existsAlready(cfg.Out)
	} else if err != nil {
		return nil, cfg.notWritten(err)
	}
	return res, nil
}

// CheckOut refuses a file that exists, before anything is decrypted for it.
func CheckOut(out string) error {
	if _, err := os.Lstat(out); err == nil {
		return existsAlready(out)
	}
	return nil
}

func existsAlready(out string) error {
	return problem.New(problem.Usage, "file %q exists already", out).WithHint("name a new file: an export of credentials is never overwritten")
}

func (cfg CredentialsConfig) notWritten(err error) error {
	return problem.Wrap(problem.Unexpected, cause(err), "writing %q", cfg.Out).WithHint("name a file on a disk that has room and allows hard links: --out FILE")
}

// writeErrors keeps the error of the writer apart from those of what writes to it.
type writeErrors struct {
	w   io.Writer
	err error
}

func (w *writeErrors) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}
