package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/export"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// ExportOptions are the options of "export". At least one of Workflows and
// Credentials is wanted.
type ExportOptions struct {
	Workflows      string // folder for workflows, "" for none
	Credentials    bool
	Out            string   // file for credentials
	Recipients     []string // who can open it; none: those of the configuration
	RecipientFiles []string
}

// Export writes workflows, credentials or both. What could not be written is in
// the document, beside an error of kind Partial.
func (a *App) Export(ctx context.Context, io InstanceOptions, o ExportOptions) (*api.Export, error) {
	switch {
	case o.Workflows == "" && !o.Credentials:
		return nil, problem.New(problem.Usage, "nothing to export").
			WithHint("say what: --workflows DIR, or --credentials --out FILE")
	case o.Credentials && o.Out == "":
		return nil, problem.New(problem.Usage, "no file to write the credentials to").
			WithHint("give one with --out FILE; it is encrypted to the recipients")
	case !o.Credentials && o.Out != "":
		return nil, problem.New(problem.Usage, "--out is for credentials, and they are not asked for").WithHint("add --credentials, or leave --out out")
	case !o.Credentials && len(o.Recipients)+len(o.RecipientFiles) > 0:
		return nil, problem.New(problem.Usage, "workflows are written in clear, so a recipient means nothing for them").
			WithHint("leave --recipient out, or add --credentials --out FILE")
	}
	in, err := a.instance(io)
	if err != nil {
		return nil, err
	}
	start := a.Now()
	doc := &api.Export{Instance: in.name, Warnings: []string{}}
	var partial error
	if o.Workflows != "" {
		if doc.Workflows, err = a.exportWorkflows(ctx, in, o.Workflows, doc); err != nil {
			if doc.Workflows == nil {
				return nil, err
			}
			partial = err
		}
	}
	if o.Credentials {
		if doc.Credentials, err = a.exportCredentials(ctx, in, o, doc); err != nil {
			if doc.Credentials == nil && doc.Workflows == nil {
				return nil, err
			}
			partial = err
		}
	}
	doc.Seconds = a.Now().Sub(start).Round(time.Millisecond).Seconds()
	return doc, partial
}

func (a *App) exportWorkflows(ctx context.Context, in *instance, dir string, doc *api.Export) (out *api.ExportedWorkflows, err error) {
	unlock, err := a.lockExport(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	db, err := in.openDB(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	cfg := export.WorkflowsConfig{DB: db, Dir: dir}
	version, err := db.Version(ctx)
	if err != nil {
		return nil, err
	}
	if key, err := a.key(in, version.N8N); err == nil {
		cfg.Needle = n8ndb.NewNeedle(key.key, key.keys...)
	} else {
		doc.Warnings = append(doc.Warnings, "the instance key is not known here, so the workflows were not looked through for it: "+err.Error())
	}
	_, end, err := a.begin(ctx, "export workflows", in.name, audit.WarnOnly, nil)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	if a.Progress != nil {
		cfg.Progress = func(done, total int64) { a.Progress("writing workflows", done, total) }
	}
	res, err := export.Workflows(ctx, cfg)
	if err != nil {
		return nil, err
	}
	counts["workflows"], counts["left_out"] = int64(res.Workflows), int64(len(res.HoldKey))
	out = &api.ExportedWorkflows{Dir: dir, Workflows: res.Workflows, New: res.New, Changed: res.Changed, Unchanged: res.Unchanged, Removed: res.Removed, HoldKey: list(res.HoldKey), Kept: list(res.Kept)}
	for _, file := range res.Kept {
		doc.Warnings = append(doc.Warnings, filepath.Join(dir, filepath.FromSlash(file))+" was left, although its workflow is gone: it holds something else now")
	}
	if n := len(res.HoldKey); n > 0 {
		return out, problem.New(problem.Partial, "%d of %d workflows were not written, because the instance key is in them, %q among them", n, res.Workflows, res.HoldKey[0]).
			WithHint("take the key out of them in n8n, and make a new one: whoever could see these workflows has it")
	}
	return out, nil
}

// lockExport keeps two exports out of one folder.
func (a *App) lockExport(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(a.lockDir(), 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "locking the export").WithHint("choose another state folder with --state-dir")
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	sum := sha256.Sum256([]byte(dir))
	lock, err := durable.TryLock(filepath.Join(a.lockDir(), "export-"+hex.EncodeToString(sum[:8])+".lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, problem.New(problem.Busy, "another export into %q is under way", dir).WithHint("wait for it, then run this again")
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "locking the export").WithHint("choose another state folder with --state-dir")
	}
	return func() { lock.Unlock() }, nil
}

func (a *App) exportCredentials(ctx context.Context, in *instance, o ExportOptions, doc *api.Export) (out *api.ExportedCredentials, err error) {
	recipients, err := a.recipients(o.Recipients, o.RecipientFiles)
	if err != nil {
		return nil, err
	}
	kind, err := archive.RecipientKind(recipients)
	if err != nil {
		return nil, problem.Wrap(problem.Usage, err, "recipients").WithHint("give recipients of one kind, all age1... or all age1pq1...")
	}
	if err := export.CheckOut(o.Out); err != nil {
		return nil, err
	}
	db, err := in.openDB(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	version, err := db.Version(ctx)
	if err != nil {
		return nil, err
	}
	key, err := a.key(in, version.N8N)
	if err != nil {
		return nil, err
	}
	// Credentials leave n8n: no record, no export.
	receipt, end, err := a.begin(ctx, "export credentials", in.name, audit.FailClosed, map[string]any{"recipients": len(recipients)})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	keys, err := db.Keyset(ctx, receipt, key.key)
	if err != nil {
		return nil, err
	}
	res, err := export.Credentials(ctx, export.CredentialsConfig{DB: db, Keys: keys, Receipt: receipt, Recipients: recipients, Out: o.Out})
	if res != nil {
		counts["credentials"], counts["failed"] = int64(res.Credentials), int64(len(res.Failures))
	}
	if err != nil {
		if p := (*problem.Error)(nil); errors.As(err, &p) && p.Kind == problem.WrongKey {
			hintKey(p, key)
		}
		return nil, err
	}
	doc.Warnings = append(doc.Warnings, key.warnings...)
	out = &api.ExportedCredentials{File: o.Out, Credentials: res.Credentials, RecipientKind: kind, KeySource: key.source, Failures: failureDocs(res.Failures)}
	if n := len(res.Failures); n > 0 {
		return out, problem.New(problem.Partial, "%d of %d credentials do not open and are not in %q", n, n+res.Credentials, o.Out).
			WithHint("they were probably written with an older key; see which with \"n8keep census %s\"", in.flags())
	}
	return out, nil
}
