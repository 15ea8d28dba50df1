package restore

import (
	"context"
	"log/slog"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/pgserver"
	"github.com/n8keep/n8keep/internal/problem"
)

// ScratchConfig says which PostgreSQL archive is loaded for a proof, and where.
type ScratchConfig struct {
	// Manifest is that of the archive, which was unpacked below Dir and proved.
	// Both are required by [Scratch], neither by [CheckScratch].
	Manifest archive.Manifest
	Dir      string
	// DSN names the server, and a database of it to connect to, which stays as it
	// is; it may hold the password. Required.
	DSN string
	// Load and Prove are as in PostgresConfig. Required by Scratch.
	Load  LoadFunc
	Prove ProveDatabaseFunc
	// Now, Logger and Progress are as in Config. Optional.
	Now      func() time.Time
	Logger   *slog.Logger
	Progress func(step string)
}

// apply is the part of a restore that a scratch run shares.
func (c *ScratchConfig) apply() *applyPostgres {
	a := &applyPostgres{PostgresConfig: PostgresConfig{DSN: c.DSN, WorkDir: c.Dir, Load: c.Load, Prove: c.Prove, Now: c.Now, Logger: c.Logger, Progress: c.Progress},
		unpacked: Unpacked{Manifest: c.Manifest}}
	a.Sidecar.ID = c.Manifest.ID
	if a.Now == nil {
		a.Now = time.Now
	}
	if a.Logger == nil {
		a.Logger = slog.New(slog.DiscardHandler)
	}
	if a.Progress == nil {
		a.Progress = func(string) {}
	}
	return a
}

// CheckScratch connects, removes what killed runs left on the server, and refuses
// what [Scratch] would refuse, before the archive is read. It returns what it
// removed, in words.
func CheckScratch(ctx context.Context, cfg ScratchConfig) (recovered []string, err error) {
	t, err := pgserver.OpenScratch(ctx, cfg.apply().dest(nil))
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return t.Recover(ctx)
}

// Scratch loads an archive into a new database of the server, proves it there, and
// drops it, whatever happens. A run that is killed leaves it to the next one.
// Nothing else on the server is changed.
func Scratch(ctx context.Context, cfg ScratchConfig) error {
	a := cfg.apply()
	t, err := pgserver.OpenScratch(ctx, a.dest(&cfg.Manifest))
	if err != nil {
		return err
	}
	defer t.Close()
	if _, err := t.Recover(ctx); err != nil {
		return err
	}
	a.Progress("making a temporary database")
	n, err := t.CreateScratch(ctx, string(cfg.Manifest.ID))
	if err != nil {
		return err
	}
	failpoint.Hit("scratch.created")
	why := a.fill(ctx, t, n)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err = t.Drop(after, n)
	failpoint.Hit("scratch.dropped")
	switch {
	case err == nil:
		return why
	case why == nil:
		return problem.Wrap(problem.KindOf(err), err, "archive %q proved itself, but the temporary database %q is still there", cfg.Manifest.ID, n.Name).
			WithHint("the next verification with --scratch on this server removes it")
	}
	return problem.Wrap(problem.KindOf(why), why, "the temporary database %q is still there", n.Name).
		WithHint("%v", err).WithHint("the next verification with --scratch on this server removes it")
}
