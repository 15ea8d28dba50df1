package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// cluster is one running server: dir holds its data and its socket.
type cluster struct {
	major    int
	dir      string
	port     int
	password string
	process  *os.Process
	exited   chan error
	output   *bytes.Buffer // complete once exited delivered

	loading   sync.Mutex
	templates map[string]string // databases by the name of what they hold
}

func (c *cluster) dsn(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(User, c.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// packaged lists the servers of scripts/install-servers, which have no other programs than the server's own.
func packaged() []int { return []int{16, 17, 18} }

// programs finds the newest versioned directory of Debian's packaging, and says which major version it has.
func programs() (dir string, major int, err error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	for _, f := range found {
		d := filepath.Dir(f)
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(d))); err == nil && v > major {
			major, dir = v, d
		}
	}
	if major < 15 {
		return "", 0, errors.New(`no PostgreSQL 15 or newer under /usr/lib/postgresql: run "scripts/setup"`)
	}
	return dir, major, nil
}

// serverPrograms is the directory of initdb and postgres of a major version.
func serverPrograms(major int) (string, error) {
	if dir, debian, err := programs(); err == nil && debian == major {
		return dir, nil
	}
	cache := os.Getenv("N8KEEP_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("finding the cache of test servers: %w", err)
		}
		cache = filepath.Join(home, ".cache", "n8keep")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "servers", fmt.Sprintf("postgres%d-%d.*", major, major), "bin", "initdb"))
	if len(found) == 0 {
		return "", fmt.Errorf(`no PostgreSQL %d in %s: run "scripts/install-servers postgres%d"`, major, filepath.Join(cache, "servers"), major)
	}
	slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })
	return filepath.Dir(found[len(found)-1]), nil
}

// reachable says whether any user may run what is in dir.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&1 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// start makes and starts a cluster. Another program may take the free port first, so it tries a few.
func start(major int) (*cluster, error) {
	bin, err := serverPrograms(major)
	if err != nil {
		return nil, err
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	removeStale()
	dir, err := os.MkdirTemp("", fmt.Sprintf("n8keep-pg-%d-", os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	c := &cluster{major: major, dir: dir, password: rand.Text()}
	if cred != nil && !reachable(bin) {
		// The user postgres may not look into root's home, where the cache is: it gets a copy.
		own := filepath.Join(dir, "programs")
		if err := os.CopyFS(own, os.DirFS(filepath.Dir(bin))); err != nil {
			return nil, errors.Join(fmt.Errorf("copying PostgreSQL %d: %w", major, err), os.RemoveAll(dir))
		}
		bin = filepath.Join(own, "bin")
	}
	if err := c.initialise(bin, cred); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	for range 5 {
		if err = c.run(bin, cred); err == nil {
			return c, nil
		}
	}
	return nil, errors.Join(err, os.RemoveAll(dir))
}

func (c *cluster) initialise(bin string, cred *syscall.Credential) error {
	secret := filepath.Join(c.dir, "password")
	if err := os.WriteFile(secret, []byte(c.password), 0o600); err != nil {
		return fmt.Errorf("writing the password file: %w", err)
	}
	if cred != nil {
		for _, p := range []string{c.dir, secret} {
			if err := os.Chown(p, int(cred.Uid), int(cred.Gid)); err != nil {
				return fmt.Errorf("handing %q to the user postgres: %w", p, err)
			}
		}
	}
	cmd := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(c.dir, "data"), "-U", User, "-A", "scram-sha-256",
		"--pwfile", secret, "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions")
	cmd.Dir, cmd.Env = c.dir, environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running initdb: %w\n%s", err, out)
	}
	return nil
}

// run starts the server and returns once it answers a login.
func (c *cluster) run(bin string, cred *syscall.Credential) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	c.port, c.output = port, &bytes.Buffer{}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(c.dir, "data"), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+c.dir, "-c", "fsync=off",
		"-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_connections=60", "-c", "shared_buffers=64MB")
	cmd.Dir, cmd.Env = c.dir, environment()
	cmd.Stdout, cmd.Stderr = c.output, c.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGQUIT}
	c.exited = make(chan error, 1)
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends, so this one must live as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting postgres: %w", err)
	}
	c.process = cmd.Process
	return c.awaitLogin()
}

func (c *cluster) awaitLogin() error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, c.dsn("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case exit := <-c.exited:
			return fmt.Errorf("postgres ended at once: %w\n%s", exit, c.output)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for postgres: %w", err), c.quit())
		case <-tick.C:
		}
	}
}

// quit ends the server without a checkpoint: the data is thrown away anyway.
func (c *cluster) quit() error {
	if err := c.process.Signal(syscall.SIGQUIT); err != nil {
		return fmt.Errorf("stopping postgres: %w", err)
	}
	<-c.exited
	return nil
}

func (c *cluster) stop() error {
	return errors.Join(c.quit(), os.RemoveAll(c.dir))
}

// credential is the user to run as: nil for ourselves, postgres for root.
func credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf(`root needs the system user postgres to run PostgreSQL (%w): run "scripts/setup"`, err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("reading the ids of the user postgres: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func environment() []string { return []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"} }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// removeStale deletes the directories of test binaries that were killed. Failure does not matter: the next run tries again.
func removeStale() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "n8keep-pg-*"))
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "n8keep-pg-"), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			_ = os.RemoveAll(dir)
		}
	}
}
