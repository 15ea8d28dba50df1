package app

import (
	"context"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

// CopyOptions are the options of "backup copy"; the source is that of the
// ArchiveOptions.
type CopyOptions struct {
	To  string
	All bool // all that the destination does not have, instead of one
}

// BackupCopy copies archives to another target. When some of several could not be
// copied, there is a document and an error of kind Partial.
func (a *App) BackupCopy(ctx context.Context, o ArchiveOptions, co CopyOptions) (doc *api.Copied, err error) {
	start := a.Now()
	if co.To == "" {
		return nil, problem.New(problem.Usage, "no target to copy to").WithHint("give a folder, an address or a configured target with --to")
	}
	from, err := a.openTarget(ctx, o.Target, false)
	if err != nil {
		return nil, err
	}
	to, err := a.openTarget(ctx, co.To, true)
	if err != nil {
		return nil, err
	}
	doc = &api.Copied{From: from.Properties().Location, To: to.Properties().Location, Archives: []api.CopyOutcome{}}
	if doc.From == doc.To {
		return nil, problem.New(problem.Usage, "source and destination are both %q", doc.To).WithHint("name another target with --to")
	}
	trust, err := a.trust(o)
	if err != nil {
		return nil, err
	}
	var ids []archive.ID
	if co.All {
		ids, err = backup.Missing(ctx, a.lister(ctx, from, trust), a.lister(ctx, to, trust), o.Instance)
	} else {
		ids = make([]archive.ID, 1)
		ids[0], err = a.lister(ctx, from, trust).Find(ctx, o.ID, o.Instance)
	}
	if err != nil {
		return nil, err
	}
	detail := map[string]any{"archives": len(ids)}
	if len(ids) == 1 {
		detail["archive"] = string(ids[0])
	}
	_, end, err := a.begin(ctx, "backup copy", o.Instance, audit.WarnOnly, detail)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	first := a.copyEach(ctx, backup.CopyConfig{From: from, To: to, Trust: trust, Progress: a.Progress}, ids, doc)
	counts["copied"], counts["there"], counts["failed"], counts["bytes"] = doc.Copied, doc.There, doc.Failed, doc.Bytes
	doc.Seconds = a.Now().Sub(start).Seconds()
	switch {
	case first == nil:
		return doc, nil
	case !co.All, ctx.Err() != nil:
		return nil, first
	}
	e := problem.New(problem.Partial, "%d of %d archives could not be copied: %s", doc.Failed, len(ids), first)
	if hint := problem.HintOf(first); hint != "" {
		e.WithHint("%s", hint)
	}
	return doc, e
}

// copyEach copies one after the other and returns the first error.
func (a *App) copyEach(ctx context.Context, cfg backup.CopyConfig, ids []archive.ID, doc *api.Copied) (first error) {
	for _, id := range ids {
		res, err := backup.Copy(ctx, cfg, id)
		if ctx.Err() != nil {
			return err
		}
		out := api.CopyOutcome{ID: string(id), Size: res.Sidecar.Size}
		switch {
		case err != nil:
			out.Outcome, out.Problem = "failed", err.Error()
			doc.Failed++
			if first == nil {
				first = err
			}
		case res.There:
			out.Outcome = "there"
			doc.There++
		default:
			out.Outcome = "copied"
			doc.Copied++
			doc.Bytes += res.Sidecar.Size
		}
		doc.Archives = append(doc.Archives, out)
	}
	return first
}
