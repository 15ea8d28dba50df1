package gcsblob

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
)

// version is one generation of an object, as the JSON API v1 shows it.
type version struct {
	Name           string    `json:"name"`
	Generation     string    `json:"generation"`
	Size           string    `json:"size"`
	Crc32c         string    `json:"crc32c"` // base64 of 4 bytes, big endian
	TimeCreated    time.Time `json:"timeCreated"`
	TimeDeleted    time.Time `json:"timeDeleted"`
	RetentionUntil time.Time `json:"retentionExpirationTime"` // by the bucket's policy
	Retention      *struct {
		Mode  string    `json:"mode"`
		Until time.Time `json:"retainUntilTime"`
	} `json:"retention"`
	Metadata map[string]string `json:"metadata"`
}

const versionFields = "name,generation,size,crc32c,timeCreated,timeDeleted,retentionExpirationTime,retention,metadata"

// versions yields every version of every object whose full name has the prefix and
// is less than before, by name; of one name in any order.
func (s *Store) versions(ctx context.Context, prefix, before string) iter.Seq2[version, error] {
	return func(yield func(version, error) bool) {
		query := url.Values{
			"prefix": {prefix}, "delimiter": {"/"}, "versions": {"true"}, "maxResults": {"1000"},
			"fields": {"nextPageToken,items(" + versionFields + ")"},
		}
		if before != "" {
			query.Set("endOffset", before)
		}
		for {
			var page struct {
				Items []version `json:"items"`
				Next  string    `json:"nextPageToken"`
			}
			err := s.call(ctx, request{
				method: http.MethodGet,
				url:    s.base + "/storage/v1/b/" + url.PathEscape(s.cfg.Bucket) + "/o?" + query.Encode(),
			}, &page)
			if err != nil {
				yield(version{}, err)
				return
			}
			for _, v := range page.Items {
				if !yield(v, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.Set("pageToken", page.Next)
		}
	}
}

// group is every version of one object, oldest first.
func (s *Store) group(ctx context.Context, name string) ([]version, error) {
	full := s.cfg.Prefix + name
	var group []version
	// Names that go on where this one ends go on with "-" at the least.
	for v, err := range s.versions(ctx, full, full+"-") {
		if err != nil {
			return nil, err
		}
		if v.Name == full {
			group = append(group, v)
		}
	}
	sortVersions(group)
	return group, nil
}

func sortVersions(group []version) {
	slices.SortFunc(group, func(a, b version) int { return cmp.Compare(a.number(), b.number()) })
}

func (v version) number() int64 {
	n, _ := strconv.ParseInt(v.Generation, 10, 64)
	return n
}

// oldest is the version that counts. An identity that may not list can still read
// the live version.
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

// live asks for the object as everybody else sees it.
func (s *Store) live(ctx context.Context, name string) (version, error) {
	var v version
	err := s.call(ctx, request{method: http.MethodGet, url: s.objectURL(name, url.Values{"fields": {versionFields}})}, &v)
	if isStatus(err, http.StatusNotFound) && !strings.Contains(err.Error(), "bucket") {
		return v, blob.ErrNotFound
	}
	return v, err
}

// pick chooses the version that counts and says what happened to it.
func (s *Store) pick(group []version) (version, blob.Info) {
	sortVersions(group)
	v := group[0]
	info := s.info(v)
	alive := slices.ContainsFunc(group, func(v version) bool { return v.TimeDeleted.IsZero() })
	switch {
	case len(group) > 1 && alive:
		info.Altered = fmt.Sprintf("overwritten on %s; this is what was put first", group[1].TimeCreated.UTC().Format(time.DateTime))
	case len(group) > 1:
		info.Altered = fmt.Sprintf("overwritten on %s and deleted; this is what was put first", group[1].TimeCreated.UTC().Format(time.DateTime))
	case !alive:
		info.Altered = fmt.Sprintf("deleted on %s, but still kept as a version", v.TimeDeleted.UTC().Format(time.DateTime))
	}
	return v, info
}

func (s *Store) info(v version) blob.Info {
	size, _ := strconv.ParseInt(v.Size, 10, 64)
	info := blob.Info{
		Name: strings.TrimPrefix(v.Name, s.cfg.Prefix), Size: size, ModTime: v.TimeCreated,
		ETag: v.Generation, LockedUntil: v.RetentionUntil,
	}
	if v.Retention != nil && v.Retention.Until.After(info.LockedUntil) {
		info.LockedUntil = v.Retention.Until
	}
	if !info.LockedUntil.After(s.cfg.Now()) {
		info.LockedUntil = time.Time{}
	}
	return info
}
