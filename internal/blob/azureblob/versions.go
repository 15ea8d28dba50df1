package azureblob

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/n8keep/n8keep/internal/blob"
)

// version is one version of a blob. Without versioning there is one, without id.
type version struct {
	full    string // with the prefix
	id      string // a time, so ids sort by age
	current bool
	size    int64
	etag    *azcore.ETag
	time    time.Time // last modified
	locked  time.Time // by an immutability policy
	token   string    // our metadata
}

func (s *Store) version(full, id string) (*azblob.Client, error) {
	c := s.client.NewBlobClient(full)
	if id == "" {
		return c, nil
	}
	return c.WithVersionID(id)
}

// versions yields every version of every blob whose full name has the prefix, by name.
func (s *Store) versions(ctx context.Context, prefix string) iter.Seq2[version, error] {
	return func(yield func(version, error) bool) {
		options := &container.ListBlobsHierarchyOptions{Prefix: &prefix, Include: container.ListBlobsInclude{Versions: true, ImmutabilityPolicy: s.cfg.Retain > 0}}
		for {
			var page container.ListBlobsHierarchyResponse
			err := s.try(ctx, callTimeout, func(ctx context.Context, _ int) (err error) {
				page, err = s.client.NewListBlobsHierarchyPager("/", options).NextPage(ctx)
				return err
			})
			if err != nil {
				yield(version{}, err)
				return
			}
			for _, item := range page.Segment.BlobItems {
				if v, ok := fromItem(item); ok && !yield(v, nil) {
					return
				}
			}
			if page.NextMarker == nil || *page.NextMarker == "" {
				return
			}
			options.Marker = page.NextMarker
		}
	}
}

func fromItem(item *container.BlobItem) (version, bool) {
	p := item.Properties
	if item.Name == nil || p == nil || p.ContentLength == nil || p.LastModified == nil || p.ETag == nil {
		return version{}, false
	}
	v := version{full: *item.Name, size: *p.ContentLength, etag: p.ETag, time: *p.LastModified, current: true}
	if item.VersionID != nil && *item.VersionID != "" {
		v.id = *item.VersionID
		v.current = item.IsCurrentVersion != nil && *item.IsCurrentVersion
	}
	if p.ImmutabilityPolicyExpiresOn != nil {
		v.locked = *p.ImmutabilityPolicyExpiresOn
	}
	return v, true
}

// group is every version of one blob, oldest first.
func (s *Store) group(ctx context.Context, name string) ([]version, error) {
	full := s.cfg.Prefix + name
	var group []version
	for v, err := range s.versions(ctx, full) {
		if err != nil {
			return nil, err
		}
		if v.full != full {
			break // the name itself comes before those that go on where it ends
		}
		group = append(group, v)
	}
	sortVersions(group)
	return group, nil
}

func sortVersions(group []version) {
	slices.SortFunc(group, func(a, b version) int { return strings.Compare(a.id, b.id) })
}

// oldest is the version that counts. An identity that may not list can still read
// the current one.
func (s *Store) oldest(ctx context.Context, name string) (version, blob.Info, error) {
	group, err := s.group(ctx, name)
	if isStatus(err, http.StatusForbidden) {
		v, liveErr := s.live(ctx, name)
		if liveErr != nil {
			return version{}, blob.Info{}, liveErr
		}
		group, err = []version{v}, nil
	}
	if err != nil {
		return version{}, blob.Info{}, err
	}
	if len(group) == 0 {
		return version{}, blob.Info{}, blob.ErrNotFound
	}
	v, info := s.pick(group)
	return v, info, nil
}

// live asks for the blob as everybody else sees it.
func (s *Store) live(ctx context.Context, name string) (version, error) {
	v := version{full: s.cfg.Prefix + name, current: true}
	err := s.try(ctx, callTimeout, func(ctx context.Context, _ int) error {
		p, err := s.client.NewBlobClient(v.full).GetProperties(ctx, nil)
		if err != nil {
			return err
		}
		if p.ContentLength == nil || p.LastModified == nil || p.ETag == nil {
			return fmt.Errorf("the server does not say what %q is", name)
		}
		v.size, v.time, v.etag = *p.ContentLength, *p.LastModified, p.ETag
		if p.ImmutabilityPolicyExpiresOn != nil {
			v.locked = *p.ImmutabilityPolicyExpiresOn
		}
		for k, m := range p.Metadata {
			if strings.EqualFold(k, tokenKey) && m != nil {
				v.token = *m
			}
		}
		return nil
	})
	if isStatus(err, http.StatusNotFound) && !isCode(err, "ContainerNotFound") {
		return v, blob.ErrNotFound
	}
	return v, err
}

// pick chooses the version that counts and says what happened to it.
func (s *Store) pick(group []version) (version, blob.Info) {
	sortVersions(group)
	v := group[0]
	info := s.info(v)
	alive := slices.ContainsFunc(group, func(v version) bool { return v.current })
	switch {
	case len(group) > 1 && alive:
		info.Altered = fmt.Sprintf("overwritten on %s; this is what was put first", group[1].time.UTC().Format(time.DateTime))
	case len(group) > 1:
		info.Altered = fmt.Sprintf("overwritten on %s and deleted; this is what was put first", group[1].time.UTC().Format(time.DateTime))
	case !alive:
		info.Altered = "deleted, but still kept as a version"
	}
	return v, info
}

func (s *Store) info(v version) blob.Info {
	info := blob.Info{Name: strings.TrimPrefix(v.full, s.cfg.Prefix), Size: v.size, ModTime: v.time, LockedUntil: v.locked}
	if v.etag != nil {
		info.ETag = strings.Trim(string(*v.etag), `"`)
	}
	if !info.LockedUntil.After(s.cfg.Now()) {
		info.LockedUntil = time.Time{}
	}
	return info
}
