package gcsblob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/remote"
)

// canaryRetention is for how long a canary is locked where objects are.
const canaryRetention = 10 * time.Minute

// probe is one run of trials on a canary.
type probe struct {
	s          *Store
	name       string
	generation string // of the canary as it was put; "" if it could not be
	locked     bool   // says the answer to the put
	trials     map[blob.Capability]blob.Trial
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
	if err := ctx.Err(); err != nil {
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
		p.note(c, blob.No, "%s", api.Message)
	default:
		p.note(c, blob.Unknown, "%v", err)
	}
}

func (p *probe) put(ctx context.Context) error {
	info, err := p.s.put(ctx, p.name, strings.NewReader("n8keep tries what it may do here\n"), min(p.s.cfg.Retain, canaryRetention))
	var lost *lostError
	if isStatus(err, http.StatusUnauthorized) || isStatus(err, http.StatusNotFound) || errors.As(err, &lost) || errors.Is(err, blob.ErrExists) || ctx.Err() != nil {
		return err
	}
	p.judge(blob.CanPut, err)
	p.generation, p.locked = info.ETag, !info.LockedUntil.IsZero()
	return nil
}

// readable reports whether a generation can be read.
func (p *probe) readable(ctx context.Context, generation string) error {
	return p.s.cfg.Retry.Do(ctx, func(int) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		query := url.Values{"alt": {"media"}}
		if generation != "" {
			query.Set("generation", generation)
		}
		resp, err := p.s.send(ctx, request{method: http.MethodGet, url: p.s.objectURL(p.name, query)})
		if err != nil {
			return err
		}
		defer drain(resp)
		if resp.StatusCode != http.StatusOK {
			return refused(resp)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return remote.Again(err, 0)
		}
		return nil
	})
}

func (p *probe) read(ctx context.Context) {
	_, err := p.s.group(ctx, p.name)
	p.judge(blob.CanList, err)
	if err = p.readable(ctx, ""); p.generation == "" && isStatus(err, http.StatusNotFound) {
		err = nil // an identity that may not read is told 403 of what is not there
	}
	p.judge(blob.CanGet, err)
}

func (p *probe) shorten(ctx context.Context) {
	if p.s.cfg.Retain == 0 {
		p.note(blob.CanShortenRetain, blob.NotApplicable, "the URL asks for no retention")
		return
	}
	if p.generation == "" {
		return
	}
	if !p.locked {
		p.note(blob.CanShortenRetain, blob.Yes, "the bucket takes the lock and does not keep it")
		return
	}
	body, err := json.Marshal(map[string]any{"retention": nil})
	if err == nil {
		err = p.s.call(ctx, request{
			method: http.MethodPatch, body: body, kind: "application/json",
			url: p.s.objectURL(p.name, url.Values{"overrideUnlockedRetention": {"true"}, "fields": {"name"}}),
		}, nil)
	}
	p.judge(blob.CanShortenRetain, err)
}

// overwrite puts other bytes under the canary's name without any condition.
func (p *probe) overwrite(ctx context.Context) {
	if p.generation == "" {
		return
	}
	query := url.Values{"uploadType": {"media"}, "name": {p.s.cfg.Prefix + p.name}}
	err := p.s.call(ctx, request{
		method: http.MethodPost, url: p.s.base + "/upload/storage/v1/b/" + url.PathEscape(p.s.cfg.Bucket) + "/o?" + query.Encode(),
		body: []byte("n8keep overwrote it\n"), kind: "application/octet-stream",
	}, nil)
	p.judge(blob.CanOverwrite, err)
	p.judge(blob.CanHide, err)
	if err != nil {
		return
	}
	switch still := p.readable(ctx, p.generation); {
	case still == nil:
		p.note(blob.CanOverwrite, blob.No, "the older version stays")
	case isStatus(still, http.StatusNotFound):
		p.note(blob.CanHide, blob.NotApplicable, "the bucket keeps no versions")
	default:
		p.note(blob.CanOverwrite, blob.Yes, "whether an older version stays could not be seen")
		p.note(blob.CanHide, blob.Unknown, "whether an older version stays could not be seen")
	}
}

func (p *probe) remove(ctx context.Context) {
	if p.generation == "" {
		return
	}
	// A plain delete hides where versions are kept; the one of a generation is for good.
	if p.s.removeGeneration(ctx, p.name, "") == nil && p.readable(ctx, p.generation) == nil {
		p.note(blob.CanHide, blob.Yes, "by a plain delete")
	}
	err := p.s.removeGeneration(ctx, p.name, p.generation)
	if isStatus(err, http.StatusNotFound) {
		err = nil
	}
	p.judge(blob.CanDelete, err)
	if t := p.trials[blob.CanDelete]; t.Answer == blob.No {
		stays := "the canary " + p.name + " stays"
		if p.s.cfg.Retain > 0 {
			stays += " and is locked for " + min(p.s.cfg.Retain, canaryRetention).String()
		}
		t.Detail = strings.TrimPrefix(t.Detail+"; "+stays, "; ")
		p.trials[blob.CanDelete] = t
	}
	if err == nil {
		_ = p.s.remove(ctx, p.name) // versions that the trials made
	}
}
