package s3blob

import (
	"bytes"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/s3test"
)

// begin begins an upload of n8n/a; finish ends it, and is the id of the version.
func begin(t *testing.T, b *s3test.Bucket, content string) (finish func() string) {
	t.Helper()
	c, key := b.Server.Client(b.Server.Root), aws.String("n8n/a")
	upload, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &b.Name, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	part, err := c.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: &b.Name, Key: key, UploadId: upload.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader(content)})
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		t.Helper()
		out, err := c.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{Bucket: &b.Name, Key: key, UploadId: upload.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.ETag, PartNumber: aws.Int32(1)}}}})
		if err != nil {
			t.Fatal(err)
		}
		return aws.ToString(out.VersionId)
	}
}

// amazon stands before the server and lists versions as Amazon does: an object that
// was uploaded in parts bears the time when its upload was begun. It pages after
// every second version: with pages of one, the server repeats a latest version for ever.
func amazon(t *testing.T, b *s3test.Bucket, begun map[string]time.Time) string {
	t.Helper()
	type entry struct {
		Key, VersionId, ETag string
		LastModified         time.Time
		Size                 int64
	}
	type result struct {
		XMLName                            xml.Name `xml:"ListVersionsResult"`
		IsTruncated                        bool
		NextKeyMarker, NextVersionIdMarker string
		Version, DeleteMarker              []entry
	}
	at := func(id string, at *time.Time) time.Time {
		if begun, ok := begun[id]; ok {
			return begun
		}
		return *at
	}
	behind, err := url.Parse(b.Server.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind)
		r.Out.Host = r.In.Host // it is signed
	}}
	c := b.Server.Client(b.Server.Root)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if !q.Has("versions") {
			proxy.ServeHTTP(w, r)
			return
		}
		out, err := c.ListObjectVersions(r.Context(), &s3.ListObjectVersionsInput{Bucket: &b.Name, MaxKeys: aws.Int32(2),
			Prefix: optional(q.Get("prefix")), KeyMarker: optional(q.Get("key-marker")), VersionIdMarker: optional(q.Get("version-id-marker"))})
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		page := result{IsTruncated: aws.ToBool(out.IsTruncated), NextKeyMarker: aws.ToString(out.NextKeyMarker), NextVersionIdMarker: aws.ToString(out.NextVersionIdMarker)}
		for _, v := range out.Versions {
			id := aws.ToString(v.VersionId)
			page.Version = append(page.Version, entry{Key: *v.Key, VersionId: id, ETag: *v.ETag, Size: *v.Size, LastModified: at(id, v.LastModified)})
		}
		for _, m := range out.DeleteMarkers {
			id := aws.ToString(m.VersionId)
			page.DeleteMarker = append(page.DeleteMarker, entry{Key: *m.Key, VersionId: id, LastModified: at(id, m.LastModified)})
		}
		if err := xml.NewEncoder(w).Encode(page); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestUploadBegunBeforeOurs: whoever begins an upload before our put and completes
// it afterwards gets the earlier time, and does not take the object's place.
func TestUploadBegunBeforeOurs(t *testing.T) {
	server := s3test.New(t)
	root := server.Client(server.Root)
	for name, tc := range map[string]struct {
		amazon, hidden bool
		content        []byte
		want           string
	}{
		"the server's own times":    {content: []byte("ours"), want: "overwritten 2 times since 20"},
		"Amazon's times":            {amazon: true, content: []byte("ours"), want: "overwritten 2 times since 20"},
		"Amazon's times, in parts":  {amazon: true, content: large(11 << 20), want: "overwritten 2 times since 20"},
		"Amazon's times, and hides": {amazon: true, hidden: true, content: []byte("ours"), want: "overwritten 2 times and deleted since 20"},
	} {
		t.Run(name, func(t *testing.T) {
			b := server.Bucket(t, s3test.Versioned)
			begun := map[string]time.Time{}
			u := b.URL("n8n")
			if tc.amazon {
				u = b.URL("n8n", "endpoint", amazon(t, b, begun))
			}
			finish := begin(t, b, "forged")
			s := open(t, u, server.Root, func(c *Config) { c.PartSize = 5 << 20 })
			if _, err := s.Put(t.Context(), "a", bytes.NewReader(tc.content)); err != nil {
				t.Fatal(err)
			}
			early := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
			begun[finish()] = early
			if _, err := root.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: aws.String("n8n/a"), Body: strings.NewReader("forged again")}); err != nil {
				t.Fatal(err)
			}
			if tc.hidden {
				if _, err := root.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.Name, Key: aws.String("n8n/a")}); err != nil {
					t.Fatal(err)
				}
			}
			put(t, s, "ab", "another")

			check := func(info blob.Info, err error) {
				t.Helper()
				if err != nil || info.Size != int64(len(tc.content)) || !strings.HasPrefix(info.Altered, tc.want) || !strings.Contains(info.Altered, "; the version that was put first is read") {
					t.Errorf("%+v, %v; want %q", info, err, tc.want)
				}
				contradiction := ", though a later one bears an earlier time, " + early.Format(time.RFC3339) + ", as one does whose upload was begun before"
				if strings.HasSuffix(info.Altered, contradiction) != tc.amazon {
					t.Errorf("altered: %q", info.Altered)
				}
			}
			if got := blobtest.ReadAll(t, open(t, u, server.Root), "a"); !bytes.Equal(got, tc.content) {
				t.Errorf("read %d bytes that are not ours", len(got))
			}
			check(s.Stat(t.Context(), "a"))
			var names []string
			for info, err := range s.List(t.Context(), "") {
				if names = append(names, info.Name); info.Name == "a" {
					check(info, err)
				}
			}
			if !slices.Equal(names, []string{"a", "ab"}) {
				t.Errorf("listed %q", names)
			}
			if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, tc.content) {
				t.Errorf("after List: read %d bytes that are not ours", len(got))
			}
			if err := s.Delete(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if versions, _ := state(t, b); versions != 1 {
				t.Errorf("%d versions are left, want that of the other object", versions)
			}
		})
	}
}

// TestOrderOfVersions has what no server here does.
func TestOrderOfVersions(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2026, 8, day, 0, 0, 0, 0, time.UTC) }
	version := func(id string, day int) layer { return layer{key: "a", id: id, at: at(day)} }
	marker := func(id string, day int) layer { return layer{key: "a", id: id, at: at(day), marker: true} }
	const read = "; the version that was put first is read"
	for name, tc := range map[string]struct {
		all     []layer
		version string
		altered string
		gone    bool
	}{
		"one":                         {[]layer{version("x", 2)}, "x", "", false},
		"only a forgery, earlier":     {[]layer{version("f", 1), version("x", 2)}, "x", "overwritten" + read + ", though a later one bears an earlier time, 2026-08-01T00:00:00Z, as one does whose upload was begun before", false},
		"of one time":                 {[]layer{version("f", 2), version("x", 2)}, "x", "overwritten since 2026-08-02T00:00:00Z" + read, false},
		"markers between pages":       {[]layer{version("f", 3), marker("m", 4), version("x", 2), marker("n", 1)}, "x", "overwritten and deleted since 2026-08-03T00:00:00Z" + read, false},
		"null repeated on every page": {[]layer{version("f", 3), version("null", 2), version("null", 2), version("x", 1)}, "x", "overwritten 2 times since 2026-08-02T00:00:00Z" + read, false},
		"without ids":                 {[]layer{version("", 3), version("", 2)}, "", "overwritten since 2026-08-03T00:00:00Z" + read, false},
		"only markers":                {[]layer{marker("m", 2), marker("n", 1)}, "", "", true},
	} {
		o := (&Store{}).pile(tc.all)
		if o.version != tc.version || o.info.Altered != tc.altered || o.gone != tc.gone {
			t.Errorf("%s: version %q, altered %q, gone %v", name, o.version, o.info.Altered, o.gone)
		}
	}
}
