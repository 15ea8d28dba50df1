package azureblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/remote"
)

// canaryRetention is for how long a canary is locked where objects are.
const canaryRetention = 10 * time.Minute

// probe is one run of trials on a canary.
type probe struct {
	s      *Store
	name   string
	there  bool
	canary version // as it was put
	trials map[blob.Capability]blob.Trial
}

// Probe implements [blob.Prober].
func (s *Store) Probe(ctx context.Context, name string) ([]blob.Trial, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	p := &probe{s: s, name: name, trials: map[blob.Capability]blob.Trial{}}
	if err := p.put(ctx); err != nil {
		return nil, s.fail(err, "trying out %q", s.cfg.location())
	}
	p.read(ctx)
	p.shorten(ctx)
	p.overwrite(ctx)
	p.remove(ctx)
	if ctx.Err() != nil {
		return nil, s.fail(context.Cause(ctx), "trying out %q", s.cfg.location())
	}
	var list []blob.Trial
	for _, c := range blob.Capabilities() {
		t, ok := p.trials[c]
		if !ok {
			t = blob.Trial{Capability: c, Answer: blob.Unknown, Detail: "there was no canary to try it with"}
		}
		list = append(list, t)
	}
	return list, nil
}

func (p *probe) note(c blob.Capability, a blob.Answer, format string, args ...any) {
	p.trials[c] = blob.Trial{Capability: c, Answer: a, Detail: fmt.Sprintf(format, args...)}
}

// judge notes what an error means: nothing wrong, refused, or not known.
func (p *probe) judge(c blob.Capability, err error) {
	var api *apiError
	switch {
	case err == nil:
		p.note(c, blob.Yes, "")
	case errors.As(err, &api) && api.Status/100 == 4:
		p.note(c, blob.No, "%s", api.Code)
	default:
		p.note(c, blob.Unknown, "%v", err)
	}
}

func (p *probe) put(ctx context.Context) error {
	v, err := p.s.put(ctx, p.name, strings.NewReader("n8keep tries what it may do here\n"), min(p.s.cfg.Retain, canaryRetention))
	var lost *lostError
	if isStatus(err, http.StatusUnauthorized) || isCode(err, "AuthenticationFailed") || isStatus(err, http.StatusNotFound) || errors.As(err, &lost) || errors.Is(err, blob.ErrExists) || ctx.Err() != nil {
		return err
	}
	p.judge(blob.CanPut, err)
	p.there, p.canary = err == nil, v
	return nil
}

// readable reports whether a version of the canary can be read.
func (p *probe) readable(ctx context.Context, id string) error {
	return p.s.try(ctx, callTimeout, func(ctx context.Context, _ int) error {
		c, err := p.s.version(p.s.cfg.Prefix+p.name, id)
		if err != nil {
			return err
		}
		resp, err := c.DownloadStream(ctx, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return remote.Again(err, 0)
		}
		return nil
	})
}

func (p *probe) read(ctx context.Context) {
	_, err := p.s.group(ctx, p.name)
	p.judge(blob.CanList, err)
	if err = p.readable(ctx, ""); !p.there && isStatus(err, http.StatusNotFound) {
		err = nil // who may not read is told 403 of what is not there
	}
	p.judge(blob.CanGet, err)
}

func (p *probe) shorten(ctx context.Context) {
	if p.s.cfg.Retain == 0 {
		p.note(blob.CanShortenRetain, blob.NotApplicable, "the URL asks for no retention")
		return
	}
	if !p.there {
		return
	}
	if live, err := p.s.live(ctx, p.name); err == nil && live.locked.IsZero() {
		p.note(blob.CanShortenRetain, blob.Yes, "the container takes the lock and does not keep it")
		return
	}
	p.judge(blob.CanShortenRetain, p.s.try(ctx, callTimeout, func(ctx context.Context, _ int) error {
		c, err := p.s.version(p.s.cfg.Prefix+p.name, p.canary.id)
		if err == nil {
			_, err = c.DeleteImmutabilityPolicy(ctx, nil)
		}
		return err
	}))
}

// overwrite puts other bytes under the canary's name without any condition.
func (p *probe) overwrite(ctx context.Context) {
	if !p.there {
		return
	}
	err := p.s.try(ctx, callTimeout, func(ctx context.Context, _ int) error {
		_, err := p.s.client.NewBlockBlobClient(p.s.cfg.Prefix+p.name).Upload(ctx, streaming.NopCloser(strings.NewReader("n8keep overwrote it\n")), nil)
		return err
	})
	p.judge(blob.CanOverwrite, err)
	p.judge(blob.CanHide, err)
	if err != nil {
		return
	}
	if p.canary.id == "" {
		p.note(blob.CanHide, blob.NotApplicable, "the account keeps no versions")
		return
	}
	switch still := p.readable(ctx, p.canary.id); {
	case still == nil:
		p.note(blob.CanOverwrite, blob.No, "the older version stays")
	case !isStatus(still, http.StatusNotFound):
		p.note(blob.CanOverwrite, blob.No, "the older version stays, says the account; this identity cannot look")
	}
}

func (p *probe) remove(ctx context.Context) {
	if !p.there {
		return
	}
	full := p.s.cfg.Prefix + p.name
	// A plain delete hides where versions are kept; the one of a version is for good.
	err := p.s.removeVersion(ctx, full, "")
	if p.canary.id != "" {
		if err == nil && p.trials[blob.CanHide].Answer != blob.Yes {
			p.note(blob.CanHide, blob.Yes, "by a plain delete")
		}
		err = p.s.removeVersion(ctx, full, p.canary.id)
	}
	if isStatus(err, http.StatusNotFound) {
		err = nil
	}
	p.judge(blob.CanDelete, err)
	if t := p.trials[blob.CanDelete]; t.Answer == blob.No {
		stays := "the canary " + p.name + " stays"
		if p.s.cfg.Retain > 0 {
			stays += " and is locked until " + p.canary.locked.UTC().Format(time.DateTime)
		}
		t.Detail = strings.TrimPrefix(t.Detail+"; "+stays, "; ")
		p.trials[blob.CanDelete] = t
	}
	if err == nil {
		_ = p.s.remove(ctx, p.name) // versions that the trials made
	}
}
