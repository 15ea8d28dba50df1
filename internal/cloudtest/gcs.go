package cloudtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var gcs server

// GCS is a bucket of a fake-gcs-server behind a front. The server stores objects,
// versions and generations and checks ifGenerationMatch. It does not implement
// resumption of an upload (asking how far it got makes the part so far an object),
// nor does it enforce locks or permissions. These the front adds, by Google's
// documentation of the JSON API.
type GCS struct {
	*Front
	Bucket string

	// May says whether the caller has a permission as in IAM; nil for all of them.
	May func(permission string) bool

	versions bool
	mu       sync.Mutex
	sessions map[string]*session
	used     map[string]bool
}

// session is a resumable upload.
type session struct {
	mu       sync.Mutex
	content  []byte
	finished []byte // the answer, once complete
	gone     bool
}

// NewGCS makes an empty bucket with or without versions.
func NewGCS(t testing.TB, versions bool) *GCS {
	t.Helper()
	gcs.once.Do(func() {
		gcs.start("fake-gcs-server", nil, func(port string) []string {
			return []string{"-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "memory", "-log-level", "error"}
		})
	})
	must(t, gcs.err)
	g := &GCS{Front: NewFront(t, gcs.url), versions: versions, sessions: map[string]*session{}, used: map[string]bool{}}
	g.Bucket = fmt.Sprintf("bucket-%d", time.Now().UnixNano())
	body, err := json.Marshal(map[string]any{"name": g.Bucket, "versioning": map[string]bool{"enabled": versions}})
	must(t, err)
	resp, err := http.Post(gcs.url+"/storage/v1/b?project=p", "application/json", bytes.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("making bucket %q: %s", g.Bucket, resp.Status)
	}
	backend := g.next
	g.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(backend, w, r) })
	return g
}

// Used are the permissions that requests needed so far.
func (g *GCS) Used() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []string
	for _, p := range []string{"create", "setRetention", "get", "list", "update", "overrideUnlockedRetention", "delete"} {
		if g.used["storage.objects."+p] {
			list = append(list, p)
		}
	}
	return list
}

// Sessions are the uploads that are neither complete nor cancelled.
func (g *GCS) Sessions() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, s := range g.sessions {
		s.mu.Lock()
		if !s.gone && s.finished == nil {
			n++
		}
		s.mu.Unlock()
	}
	return n
}

// ForgetSessions makes every upload unknown.
func (g *GCS) ForgetSessions() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.sessions)
}

func (g *GCS) allowed(w http.ResponseWriter, permission string) bool {
	permission = "storage.objects." + permission
	g.mu.Lock()
	g.used[permission] = true
	g.mu.Unlock()
	if g.May == nil || g.May(permission) {
		return true
	}
	fail(w, http.StatusForbidden, "writer@example.com does not have "+permission+" access to the Google Cloud Storage object.")
	return false
}

func fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "message": text}})
}

func (g *GCS) serve(backend http.Handler, w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	object := strings.Contains(r.URL.Path, "/o/")
	switch {
	case query.Has("upload_id"):
		g.upload(backend, w, r)
		return
	case strings.HasPrefix(r.URL.Path, "/upload/"):
		if !g.allowed(w, "create") {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if bytes.Contains(body, []byte(`"retention"`)) && !g.allowed(w, "setRetention") {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if there, locked := g.look(query.Get("name"), ""); there {
			if query.Get("ifGenerationMatch") == "0" {
				fail(w, http.StatusPreconditionFailed, "At least one of the pre-conditions you specified did not hold.")
				return
			}
			if !g.allowed(w, "delete") {
				return
			}
			if locked && !g.versions {
				fail(w, http.StatusForbidden, "Object is subject to object retention and cannot be overwritten.")
				return
			}
		}
		rec := httptest.NewRecorder()
		backend.ServeHTTP(rec, r)
		if l, err := url.Parse(rec.Header().Get("Location")); err == nil && l.Query().Has("upload_id") {
			g.mu.Lock()
			g.sessions[l.Query().Get("upload_id")] = &session{}
			g.mu.Unlock()
		}
		replay(w, rec)
		return
	case r.Method == http.MethodGet && object:
		if !g.allowed(w, "get") {
			return
		}
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/o"):
		if !g.allowed(w, "list") {
			return
		}
	case r.Method == http.MethodPatch:
		if !g.allowed(w, "update") || query.Get("overrideUnlockedRetention") == "true" && !g.allowed(w, "overrideUnlockedRetention") {
			return
		}
	case r.Method == http.MethodDelete:
		if !g.allowed(w, "delete") {
			return
		}
		_, name, _ := strings.Cut(r.URL.Path, "/o/")
		if _, locked := g.look(name, query.Get("generation")); locked && (query.Has("generation") || !g.versions) {
			fail(w, http.StatusForbidden, "Object is subject to object retention and cannot be deleted.")
			return
		}
	}
	backend.ServeHTTP(w, r)
}

// look asks the server itself whether there is an object and whether it is locked.
func (g *GCS) look(name, generation string) (there, locked bool) {
	u := gcs.url + "/storage/v1/b/" + g.Bucket + "/o/" + url.PathEscape(name)
	if generation != "" {
		u += "?generation=" + generation
	}
	resp, err := http.Get(u)
	if err != nil {
		return false, false
	}
	defer resp.Body.Close()
	var doc struct {
		Retention struct {
			Until time.Time `json:"retainUntilTime"`
		} `json:"retention"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&doc) != nil {
		return false, false
	}
	return true, doc.Retention.Until.After(time.Now())
}

// upload serves a request of a session. Bytes that arrive are kept in multiples of
// 256 KiB, also when the rest of the request does not arrive.
func (g *GCS) upload(backend http.Handler, w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	s := g.sessions[r.URL.Query().Get("upload_id")]
	g.mu.Unlock()
	if s == nil {
		fail(w, http.StatusNotFound, "Not Found")
		return
	}
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodDelete:
		s.gone = true
		w.WriteHeader(499)
		return
	case s.gone:
		w.WriteHeader(499)
		return
	case s.finished != nil:
		w.Write(s.finished)
		return
	}
	span, total, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Content-Range"), "bytes "), "/")
	if from, to, ok := strings.Cut(span, "-"); ok {
		begin, _ := strconv.Atoi(from)
		end, _ := strconv.Atoi(to)
		if begin > len(s.content) || err == nil && end-begin+1 != len(body) || total == "*" && (end+1)%(256<<10) != 0 {
			fail(w, http.StatusBadRequest, "Invalid Content-Range")
			return
		}
		if err != nil {
			body = body[:len(body)/(256<<10)*(256<<10)]
		}
		if begin+len(body) > len(s.content) {
			s.content = append(s.content[:begin], body...)
		}
	}
	if err != nil {
		return
	}
	if total != strconv.Itoa(len(s.content)) {
		if len(s.content) > 0 {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(s.content)-1))
		}
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(s.content))
	r.ContentLength = int64(len(s.content))
	r.Header.Set("Content-Length", total)
	r.Header.Set("Content-Range", fmt.Sprintf("bytes 0-%d/%s", len(s.content)-1, total))
	if len(s.content) == 0 {
		r.Header.Set("Content-Range", "bytes */0")
	}
	rec := httptest.NewRecorder()
	backend.ServeHTTP(rec, r)
	if rec.Code == http.StatusOK {
		s.finished, s.content = rec.Body.Bytes(), nil
	} else {
		s.gone = true
	}
	replay(w, rec)
}

func replay(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}
