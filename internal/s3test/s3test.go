// Package s3test gives tests a real S3 server: versitygw, with versions, object
// lock, and identities whose permissions are enforced.
//
// The first New of a test binary starts the server on loopback in a temporary
// directory; it ends with the last test that uses it, and is killed by the kernel
// when the test binary dies. [Server.Bucket] makes a bucket for one test, and
// [Bucket.Allow] says what an identity may do there; without that only Root may
// do anything.
//
// A machine without the server fails the test and names the command that installs
// it: nothing here skips.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Identity is a user of the server.
type Identity struct{ Access, Secret string }

// Env is an environment that holds the identity's keys and nothing else.
func (i Identity) Env(name string) (string, bool) {
	switch name {
	case "AWS_ACCESS_KEY_ID":
		return i.Access, true
	case "AWS_SECRET_ACCESS_KEY":
		return i.Secret, true
	}
	return "", false
}

// Server is the running server.
type Server struct {
	Addr string // HOST:PORT

	Root                             Identity // may do everything
	Writer, Restorer, Pruner, Nobody Identity // may do nothing but what Bucket.Allow says

	dir     string
	process *os.Process
	exited  chan error
	output  *bytes.Buffer
}

var shared struct {
	sync.Mutex
	refs int
	s    *Server
}

var buckets atomic.Int64

// New returns the server of this test binary.
func New(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.s == nil {
		s, err := start()
		if err != nil {
			t.Fatalf("s3test: %v", err)
		}
		shared.s = s
	}
	shared.refs++
	s := shared.s
	t.Cleanup(func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.refs--; shared.refs == 0 {
			shared.s = nil
			s.stop()
		}
	})
	return s
}

// Main runs the tests of m on one server that outlives each of them, and returns
// the code for os.Exit.
func Main(m *testing.M) int {
	s, err := start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "s3test:", err)
		return 1
	}
	shared.s, shared.refs = s, 1
	defer s.stop()
	return m.Run()
}

// Endpoint is the server's http URL.
func (s *Server) Endpoint() string { return "http://" + s.Addr }

// Client is a plain client of the protocol, for what a test does behind the back
// of the code it tests.
func (s *Server) Client(i Identity) *s3.Client {
	return s3.New(s3.Options{BaseEndpoint: aws.String(s.Endpoint()), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(i.Access, i.Secret, ""), RetryMaxAttempts: 1})
}

// Kind is what sort of bucket.
type Kind int

const (
	Plain     Kind = iota // without versions
	Versioned             // with versions
	Locked                // with versions and object lock
)

// Bucket is a bucket of one test.
type Bucket struct {
	Name   string
	Server *Server

	statements []map[string]any
}

// Bucket makes an empty bucket.
func (s *Server) Bucket(t testing.TB, kind Kind) *Bucket {
	t.Helper()
	b := &Bucket{Name: fmt.Sprintf("n8k-%d", buckets.Add(1)), Server: s}
	root := s.Client(s.Root)
	if _, err := root.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &b.Name, ObjectLockEnabledForBucket: aws.Bool(kind == Locked)}); err != nil {
		t.Fatalf("s3test: making a bucket: %v", err)
	}
	if kind == Versioned {
		if _, err := root.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{Bucket: &b.Name,
			VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled}}); err != nil {
			t.Fatalf("s3test: turning versions on: %v", err)
		}
	}
	return b
}

// Allow lets an identity do these actions, such as "s3:PutObject", on the bucket
// and everything in it, besides what it may do already.
func (b *Bucket) Allow(t testing.TB, i Identity, actions ...string) {
	t.Helper()
	var onBucket, onObjects []string
	for _, a := range actions {
		if strings.HasPrefix(a, "s3:List") && a != "s3:ListMultipartUploadParts" || strings.HasPrefix(a, "s3:GetBucket") {
			onBucket = append(onBucket, a)
		} else {
			onObjects = append(onObjects, a)
		}
	}
	add := func(actions []string, resource string) {
		if len(actions) > 0 {
			b.statements = append(b.statements, map[string]any{"Effect": "Allow", "Principal": map[string]any{"AWS": []string{i.Access}},
				"Action": actions, "Resource": []string{"arn:aws:s3:::" + b.Name + resource}})
		}
	}
	add(onBucket, "")
	add(onObjects, "/*")
	b.apply(t)
}

// Statement adds a statement of a policy, to which the identity is added.
func (b *Bucket) Statement(t testing.TB, i Identity, statement map[string]any) {
	t.Helper()
	statement["Principal"] = map[string]any{"AWS": []string{i.Access}}
	b.statements = append(b.statements, statement)
	b.apply(t)
}

func (b *Bucket) apply(t testing.TB) {
	t.Helper()
	policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": b.statements})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Server.Client(b.Server.Root).PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &b.Name, Policy: aws.String(string(policy))}); err != nil {
		t.Fatalf("s3test: setting the policy %s: %v", policy, err)
	}
}

// URL is the bucket as a target, at the endpoint of the server, or of a proxy
// before it if query has one. Query is in pairs of name and value.
func (b *Bucket) URL(prefix string, query ...string) *url.URL {
	q := url.Values{"endpoint": {b.Server.Endpoint()}, "path_style": {"true"}, "credentials": {"env"}}
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	return &url.URL{Scheme: "s3", Host: b.Name, Path: "/" + prefix, RawQuery: q.Encode()}
}

// program is the server that the recipe in testdata/servers names.
func program() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	recipe, err := os.ReadFile(filepath.Join(filepath.Dir(file), "../../testdata/servers/versitygw/go.mod"))
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(string(recipe), "github.com/versity/versitygw v")
	version, _, _ := strings.Cut(after, " ")
	cache := os.Getenv("N8KEEP_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(home, ".cache", "n8keep")
	}
	path := filepath.Join(cache, "servers", "versitygw-"+version, "bin", "versitygw")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf(`no S3 server at %s: run "scripts/install-servers versitygw"`, path)
	}
	return path, nil
}

func start() (*Server, error) {
	path, err := program()
	if err != nil {
		return nil, err
	}
	removeStale()
	dir, err := os.MkdirTemp("", fmt.Sprintf("n8keep-s3-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	// Another program may take the free port first.
	for range 5 {
		if err = s.run(path); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, os.RemoveAll(dir))
}

func (s *Server) prepare() error {
	for _, sub := range []string{"data", "versions", "iam"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	type account struct {
		Access string `json:"access"`
		Secret string `json:"secret"`
		Role   string `json:"role"`
	}
	accounts := map[string]account{}
	identity := func(name string) Identity {
		i := Identity{name, rand.Text()}
		accounts[name] = account{i.Access, i.Secret, "user"}
		return i
	}
	s.Root = Identity{"root", rand.Text()}
	s.Writer, s.Restorer, s.Pruner, s.Nobody = identity("writer"), identity("restorer"), identity("pruner"), identity("nobody")
	b, err := json.Marshal(map[string]any{"accessAccounts": accounts})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "iam", "users.json"), b, 0o600)
}

func (s *Server) run(path string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Addr = l.Addr().String()
	l.Close()
	s.output, s.exited = &bytes.Buffer{}, make(chan error, 1)
	cmd := exec.Command(path, "--quiet", "--keep-alive", "--port", s.Addr, "--iam-dir", filepath.Join(s.dir, "iam"),
		"posix", "--versioning-dir", filepath.Join(s.dir, "versions"), filepath.Join(s.dir, "data"))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + s.dir, "ROOT_ACCESS_KEY=" + s.Root.Access, "ROOT_SECRET_KEY=" + s.Root.Secret}
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, s.output, s.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends, so this one must live as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting the S3 server: %w", err)
	}
	s.process = cmd.Process
	return s.await()
}

func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint(), nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case exit := <-s.exited:
			return fmt.Errorf("the S3 server ended at once: %v\n%s", exit, s.output)
		case <-ctx.Done():
			s.process.Kill()
			<-s.exited
			return fmt.Errorf("waiting for the S3 server: %w", err)
		case <-tick.C:
		}
	}
}

func (s *Server) stop() {
	s.process.Kill()
	<-s.exited
	os.RemoveAll(s.dir)
}

// removeStale deletes the directories of test binaries that were killed. Failure does not matter: the next run tries again.
func removeStale() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "n8keep-s3-*"))
	for _, dir := range left {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "n8keep-s3-%d-", &pid); err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = os.RemoveAll(dir)
		}
	}
}
