package pgclient

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// FindConfig says what the programs must be able to do and where they may be.
type FindConfig struct {
	Dir     string // the configured folder, and then no other is looked into; "": look around
	Server  int    // server_version_num of the server to dump or to restore into; 0: any
	Archive int    // Programs.Version of the pg_dump whose archive is to be read; 0: any

	Path    string   // folders as in $PATH, which "" stands for
	Folders []string // patterns of folders beside those; nil: where distributions put PostgreSQL
}

func (c FindConfig) folders() []string {
	if c.Folders != nil {
		return c.Folders
	}
	return []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*", "/opt/homebrew/opt/libpq/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/libpq/bin", "/usr/local/opt/postgresql@*/bin"}
}

// Find returns the programs that fit best: of the server's own release series, else
// of the oldest newer one, since a newer pg_restore speaks to a server in words that an
// older one may not know. With neither Server nor Archive it is the newest.
// For a restore the server may be newer than the programs, for a dump it may not: pass
// Server for a dump, Archive (and Server, if it is not newer) for a restore.
func Find(ctx context.Context, cfg FindConfig) (Programs, error) {
	found, err := search(ctx, cfg)
	if err != nil {
		return Programs{}, err
	}
	need := max(series(cfg.Server), series(cfg.Archive))
	fits := slices.DeleteFunc(slices.Clone(found), func(p Programs) bool { return series(p.Version) < need })
	if len(fits) > 0 {
		if need == 0 {
			return slices.MaxFunc(fits, byVersion), nil
		}
		return slices.MinFunc(fits, func(a, b Programs) int {
			return cmp.Or(cmp.Compare(series(a.Version), series(b.Version)), cmp.Compare(b.Version, a.Version))
		}), nil
	}
	return Programs{}, tooOld(cfg, found)
}

func byVersion(a, b Programs) int { return cmp.Compare(a.Version, b.Version) }

func search(ctx context.Context, cfg FindConfig) (found []Programs, err error) {
	if cfg.Dir != "" {
		p, err := inspect(ctx, cfg.Dir)
		if err != nil {
			return nil, problem.Wrap(problem.Usage, err, "the configured folder of PostgreSQL's programs, %q", cfg.Dir).
				WithHint("name the folder that holds pg_dump and pg_restore, such as /usr/lib/postgresql/17/bin")
		}
		return []Programs{p}, nil
	}
	path := cfg.Path
	if path == "" {
		path = os.Getenv("PATH")
	}
	var dirs []string
	for _, d := range filepath.SplitList(path) {
		if filepath.IsAbs(d) {
			dirs = append(dirs, d)
		}
	}
	for _, pattern := range cfg.folders() {
		more, _ := filepath.Glob(pattern)
		dirs = append(dirs, more...)
	}
	seen := map[string]bool{}
	for _, d := range dirs {
		real, err := filepath.EvalSymlinks(filepath.Join(d, "pg_dump"))
		// Debian's wrapper chooses among the folders that are looked into anyway.
		if err != nil || seen[real] || filepath.Base(real) == "pg_wrapper" {
			continue
		}
		seen[real] = true
		if p, err := inspect(ctx, d); err == nil {
			found = append(found, p)
		} else if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return found, nil
}

// inspect asks the programs of a folder for their version.
func inspect(ctx context.Context, dir string) (Programs, error) {
	p := Programs{Dump: filepath.Join(dir, "pg_dump"), Restore: filepath.Join(dir, "pg_restore")}
	var versions [2]int
	for i, program := range []string{p.Dump, p.Restore} {
		if info, err := os.Stat(program); err != nil || info.IsDir() {
			return Programs{}, fmt.Errorf("there is no %s", filepath.Base(program))
		}
		v, err := version(ctx, program)
		if err != nil {
			return Programs{}, err
		}
		versions[i] = v
	}
	if versions[0] != versions[1] {
		return Programs{}, fmt.Errorf("pg_dump is %s, but pg_restore %s", release(versions[0]), release(versions[1]))
	}
	p.Version = versions[0]
	return p, nil
}

func version(ctx context.Context, program string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s cannot be run: %w", filepath.Base(program), err)
	}
	v, ok := parseVersion(string(out))
	if !ok {
		return 0, fmt.Errorf("%s does not tell its version", filepath.Base(program))
	}
	return v, nil
}

// pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1), 9.6.24, 18beta1, 19devel
var versionText = regexp.MustCompile(`^\w+ \(PostgreSQL\) ([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(?:devel|alpha|beta|rc)?`)

func parseVersion(s string) (num int, ok bool) {
	m := versionText.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1])
	}
	if n[0] > 10000 || n[1] > 99 && n[0] < 10 {
		return 0, false
	}
	if n[0] < 10 {
		return n[0]*10000 + n[1]*100 + n[2], true
	}
	return n[0]*10000 + n[1], true
}

func tooOld(cfg FindConfig, found []Programs) error {
	need, what := series(cfg.Server), "pg_dump"
	var why string
	switch {
	case series(cfg.Archive) > need:
		need, what = series(cfg.Archive), "pg_restore"
		why = fmt.Sprintf("the dump was made by pg_dump %s", release(cfg.Archive))
	case need > 0:
		why = fmt.Sprintf("the server is PostgreSQL %s", release(cfg.Server))
	}
	var p *problem.Error
	switch {
	case len(found) == 0 && why != "":
		p = problem.New(problem.Usage, "no %s was found on this machine; %s", what, why)
	case len(found) == 0:
		p = problem.New(problem.Usage, "no %s was found on this machine", what)
	default:
		best := slices.MaxFunc(found, byVersion)
		p = problem.New(problem.Usage, "%s %s in %q is too old: %s", what, best.Release(), filepath.Dir(best.Dump), why)
	}
	return p.WithHint("%s", packages(need))
}

// packages names what to install for a release series; 0: any.
func packages(series int) string {
	if series == 0 {
		return "install PostgreSQL's client programs: apt-get install postgresql-client (Debian, Ubuntu), dnf install postgresql (Fedora, Red Hat), apk add postgresql-client (Alpine)"
	}
	n := strconv.Itoa(series)
	return strings.ReplaceAll("install the package postgresql-client-NN (Debian, Ubuntu; apt.postgresql.org has all releases), postgresqlNN (RPM, from yum.postgresql.org) or postgresqlNN-client (Alpine); a newer one serves too", "NN", n)
}
