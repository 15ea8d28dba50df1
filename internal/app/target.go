package app

import (
	"context"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blob/azureblob"
	"github.com/n8keep/n8keep/internal/blob/fileblob"
	"github.com/n8keep/n8keep/internal/blob/gcsblob"
	"github.com/n8keep/n8keep/internal/blob/s3blob"
	"github.com/n8keep/n8keep/internal/blob/sftpblob"
	"github.com/n8keep/n8keep/internal/problem"
)

// openTarget opens a target: a name of the configuration, a folder, or an address
// such as s3://bucket/prefix. "" is the only one that is configured. write says
// that a folder may be made.
func (a *App) openTarget(ctx context.Context, name string, write bool) (blob.Store, error) {
	location, err := a.targetLocation(name)
	if err != nil {
		return nil, err
	}
	scheme, _, remote := strings.Cut(location, "://")
	if !remote || scheme == "file" {
		return a.openFolder(location, write)
	}
	u, err := url.Parse(location)
	if err != nil {
		// The parser's text quotes what it was given.
		return nil, problem.New(problem.Usage, "target %q: the address cannot be read", scheme+"://...").
			WithHint("it looks like s3://bucket/prefix?region=eu-central-1; percent-encode what is not a letter, digit or one of -._~/")
	}
	switch scheme {
	case "s3":
		cfg, err := s3blob.Parse(u, a.Env)
		if err != nil {
			return nil, err
		}
		cfg.Now, cfg.Logger = a.Now, a.Logger
		return s3blob.New(ctx, cfg)
	case "gcs", "gs":
		cfg, err := gcsblob.Parse(u, a.Env)
		if err != nil {
			return nil, err
		}
		return gcsblob.New(ctx, cfg)
	case "azure":
		cfg, err := azureblob.Parse(u, a.Env)
		if err != nil {
			return nil, err
		}
		return azureblob.New(ctx, cfg)
	case "sftp":
		cfg, err := sftpblob.Parse(u, a.Env)
		if err != nil {
			return nil, err
		}
		return sftpblob.New(ctx, cfg)
	}
	return nil, problem.New(problem.Usage, "target %q: no kind of target is called %q", scheme+"://...", scheme).
		WithHint("give a folder, or s3://, gcs://, azure:// or sftp://; the manual says how each is written")
}

// targetLocation is a folder or an address.
func (a *App) targetLocation(name string) (string, error) {
	if t, ok := a.conf.Targets[name]; ok {
		return t.Location(), nil
	}
	if name != "" {
		return name, nil
	}
	_, t, err := a.conf.Target("")
	if err != nil {
		return "", err
	}
	if t.Location() == "" {
		return "", problem.New(problem.Usage, "no target: where archives go").WithHint("give a folder or an address with --target, such as --target /var/backups/n8n or --target s3://bucket/prefix")
	}
	return t.Location(), nil
}

func (a *App) openFolder(location string, write bool) (blob.Store, error) {
	folder := strings.TrimPrefix(location, "file://")
	if !write && !isDir(folder) {
		return nil, problem.New(problem.NotFound, "target %q does not exist", folder).WithHint("name the folder that archives were written to with --target DIR")
	}
	store, err := fileblob.New(filepath.Clean(folder))
	if err != nil {
		return nil, problem.Wrap(problem.Unreachable, err, "target %q", folder).WithHint("check that the folder can be made and written by this user")
	}
	return store, nil
}

// openTargets opens each target once.
func (a *App) openTargets(ctx context.Context, names []string, write bool) ([]blob.Store, error) {
	if len(names) == 0 {
		names = []string{""}
	}
	var stores []blob.Store
	var locations []string
	for _, name := range names {
		s, err := a.openTarget(ctx, name, write)
		if err != nil {
			return nil, err
		}
		at := s.Properties().Location
		if slices.Contains(locations, at) {
			return nil, problem.New(problem.Usage, "target %q is given twice", at).WithHint("name each target once")
		}
		stores, locations = append(stores, s), append(locations, at)
	}
	return stores, nil
}
