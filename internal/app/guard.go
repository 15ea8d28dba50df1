package app

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/guard"
	"github.com/n8keep/n8keep/internal/n8napi"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// guard waits for running executions, or refuses because of them. With
// "continue", the default, nobody is asked: the backup itself reports what ran.
func (a *App) guard(ctx context.Context, in *instance, o BackupOptions) (warnings []string, err error) {
	mode, err := guard.ParseMode(first(o.WhenRunning, in.conf.WhenRunning, string(guard.Continue)))
	if err != nil || mode == guard.Continue {
		return nil, err
	}
	cfg := guard.Config{Mode: mode, Limit: o.WaitLimit, Waiting: func(still []guard.Execution, waited time.Duration) {
		if a.Progress != nil {
			a.Progress("waiting for running executions", int64(waited.Seconds()), 0)
		}
	}}
	if cfg.Limit == 0 {
		cfg.Limit = in.conf.WaitLimit
	}
	if url := first(o.APIURL, in.conf.APIURL); url != "" {
		key, err := a.apiKey(in, o)
		if err != nil {
			return nil, err
		}
		client, err := n8napi.New(n8napi.Config{URL: url, Key: key})
		if err != nil {
			return nil, err
		}
		cfg.Sources = append(cfg.Sources, guard.API(client))
	}
	db, err := in.openDB(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	cfg.Sources = append(cfg.Sources, guard.Database(db))
	report, err := guard.Check(ctx, cfg)
	return report.Notes, err
}

func (a *App) apiKey(in *instance, o BackupOptions) (secret.String, error) {
	ref := in.conf.APIKey
	if o.APIKeyFile != "" {
		var err error
		if ref, err = config.ParseReference("file:" + o.APIKeyFile); err != nil {
			return secret.String{}, err
		}
	}
	if ref.IsZero() {
		return secret.String{}, problem.New(problem.Usage, "n8n's API has an address, but no key").WithHint("give a file with a key that may list executions: --api-key-file FILE")
	}
	b, err := ref.Resolve(a.Env, os.ReadFile)
	if err != nil {
		return secret.String{}, err
	}
	return secret.NewString(strings.TrimSpace(string(b.Reveal()))), nil
}
