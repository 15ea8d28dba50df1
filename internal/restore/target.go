package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// target is what stands where a restore goes.
type target struct {
	dir      string   // absolute, symbolic links resolved
	exists   bool     // the folder is there
	missing  []string // folders to make, outermost first; the last is dir
	base     string   // the nearest folder that is there
	database string   // its name in dir
	size     int64    // of the database; -1: there is none
	beside   []string // -wal, -shm and -journal beside the database, by name
	config   bool     // there is one, with the right key
	mounts   []string // mount points below dir, relative to it
	owner    Owner    // of base
}

// journalSuffixes are the files in which SQLite keeps parts of a database.
func journalSuffixes() []string { return []string{"-wal", "-shm", "-journal"} }

// locate finds the folder, and what of it has to be made.
func locate(to string) (target, error) {
	t := target{size: -1}
	if strings.Contains(to, "://") {
		return t, problem.New(problem.Usage, "an archive of an SQLite database cannot be restored to %q", redactURL(to)).
			WithHint("name a folder with --to")
	}
	abs, err := filepath.Abs(to)
	if err != nil || to == "" {
		return t, problem.New(problem.Usage, "no folder to restore to").WithHint("name it with --to")
	}
	for dir := abs; ; dir = filepath.Dir(dir) {
		_, err := os.Lstat(dir)
		if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && dir != filepath.Dir(dir) {
			t.missing = slices.Insert(t.missing, 0, filepath.Base(dir))
			continue
		}
		if err != nil {
			return t, problem.New(problem.Usage, "looking at the target %q: %v", to, cause(err))
		}
		if t.base, err = filepath.EvalSymlinks(dir); err != nil {
			return t, problem.New(problem.Usage, "the target %q leads through %q, a symbolic link to nothing", to, dir).
				WithHint("name the folder itself with --to, or repair the link")
		}
		break
	}
	info, err := os.Stat(t.base)
	if err != nil {
		return t, problem.New(problem.Usage, "looking at the target %q: %v", to, cause(err))
	}
	if !info.IsDir() {
		if len(t.missing) == 0 {
			return t, problem.New(problem.Usage, "the target %q is not a folder", to).WithHint("name the .n8n folder with --to, not a file in it")
		}
		return t, problem.New(problem.Usage, "the target %q cannot be made: %q is not a folder", to, t.base)
	}
	st := info.Sys().(*syscall.Stat_t)
	t.owner = Owner{int(st.Uid), int(st.Gid)}
	t.exists, t.dir = len(t.missing) == 0, t.base
	for i, name := range t.missing {
		t.dir = filepath.Join(t.dir, name)
		t.missing[i] = t.dir
	}
	if err := unix.Faccessat(unix.AT_FDCWD, t.base, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		what := "is not writable"
		if !t.exists {
			what = fmt.Sprintf("cannot be made: %q is not writable", t.base)
		}
		return t, problem.New(problem.Usage, "the target %q %s: %v", to, what, err).
			WithHint("run n8keep as the user that owns it (uid %d), or as root", t.owner.UID)
	}
	return t, nil
}

// inspect looks at what is in the folder and refuses what a restore must not
// touch. Names in made are taken for not there.
func (t *target) inspect(cfg *Config, made map[string]bool) error {
	path := n8nhome.DatabasePath(t.dir, cfg.Env)
	t.database = filepath.Base(path)
	if filepath.Dir(path) != t.dir || strings.HasPrefix(t.database, ".n8keep-") || t.database == "config" {
		return problem.New(problem.Usage, "DB_SQLITE_DATABASE says %q, which is not a file directly in %q", path, t.dir).
			WithHint("restore with DB_SQLITE_DATABASE unset, then move the database there with n8n stopped")
	}
	var err error
	if t.mounts, err = mountsBelow(t.dir); err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading the list of mounts")
	}
	if !t.exists {
		return nil
	}
	if err := t.inspectDatabase(made); err != nil {
		return err
	}
	if err := t.inspectConfig(cfg, made); err != nil {
		return err
	}
	return t.inspectData(cfg, made)
}

func (t *target) inspectDatabase(made map[string]bool) error {
	for _, name := range append([]string{t.database}, prefixAll(t.database, journalSuffixes())...) {
		info, err := os.Lstat(filepath.Join(t.dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist) || made[name]:
			continue
		case err != nil:
			return problem.New(problem.Usage, "looking at %q: %v", filepath.Join(t.dir, name), cause(err))
		case info.Mode()&fs.ModeSymlink != 0:
			return problem.New(problem.Usage, "%q is a symbolic link: a new database cannot be renamed over it", filepath.Join(t.dir, name)).
				WithHint("restore into the folder that it leads to, or put the file itself in its place")
		case !info.Mode().IsRegular():
			return problem.New(problem.Usage, "%q is not a regular file", filepath.Join(t.dir, name))
		case slices.Contains(t.mounts, name):
			return problem.New(problem.Usage, "%q is a mount point of its own: a new database cannot be renamed over it", filepath.Join(t.dir, name)).
				WithHint("mount the .n8n folder instead of the single file (docker: -v FOLDER:/home/node/.n8n), then restore into it")
		}
		if name == t.database {
			t.size = info.Size()
		} else {
			t.beside = append(t.beside, name)
		}
	}
	return nil
}

func (t *target) inspectConfig(cfg *Config, made map[string]bool) error {
	path := filepath.Join(t.dir, "config")
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || made["config"] {
		return nil
	} else if err != nil {
		return problem.New(problem.Usage, "looking at %q: %v", path, cause(err))
	}
	there, err := n8nhome.ReadConfig(t.dir)
	if err != nil {
		return problem.Wrap(problem.KindOf(err), err, "the target cannot be used").
			WithHint("move the file away; the restore writes a new one with the key given")
	}
	if !there.Key.Equal(cfg.Key) {
		return problem.New(problem.WrongKey, "the target %q has a config with another instance key: there %s, the archive's is %s", t.dir, there.Key.Fingerprint(), cfg.KeyFingerprint).
			WithHint("n8n would not open one restored secret with it; if the archive's key is to be used from now on, move %q away and restore again", path).
			WithHint("or restore into another folder with --to")
	}
	t.config = true
	return nil
}

// inspectData refuses a folder that somebody uses. A config may be there, and
// what mkfs makes.
func (t *target) inspectData(cfg *Config, made map[string]bool) error {
	if cfg.Overwrite {
		return nil
	}
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return problem.New(problem.Usage, "looking into the target %q: %v", t.dir, cause(err)).
			WithHint("run n8keep as the user that owns it (uid %d), or as root", t.owner.UID)
	}
	var holds []string
	for _, e := range entries {
		name := e.Name()
		if name == "config" || name == "lost+found" || made[name] || isStaging(name) {
			continue
		}
		holds = append(holds, name)
	}
	if len(holds) == 0 {
		return nil
	}
	what := fmt.Sprintf("%q", holds[0])
	if slices.Contains(holds, t.database) {
		what = fmt.Sprintf("%q", t.database)
	}
	if len(holds) > 1 {
		what += fmt.Sprintf(" and %d more", len(holds)-1)
	}
	return problem.New(problem.Usage, "the target %q holds data: %s", t.dir, what).
		WithHint("restore into another folder, or add --overwrite: what stands there is kept beside the new")
}

func isStaging(name string) bool {
	id, ok := strings.CutPrefix(name, stagingPrefix)
	if !ok {
		return false
	}
	_, err := archive.ParseID(id)
	return err == nil
}

// checkAttached makes sure that nobody has the database open at this moment, and
// changes nothing.
func (t *target) checkAttached(ctx context.Context, cfg *Config) (warning string, err error) {
	if t.size < 0 {
		return "", nil
	}
	h, err := hold(ctx, filepath.Join(t.dir, t.database), holdOptions{healthURL: cfg.HealthURL, assumeStopped: cfg.AssumeStopped})
	if err != nil {
		return "", err
	}
	if h.damaged != nil {
		return fmt.Sprintf("the database that is there cannot be read, and is kept as it is: %v", h.damaged), h.release()
	}
	return h.unchecked(), h.release()
}

// checkOwner decides who is to own what is written; nil leaves it to the system.
func (t *target) checkOwner(cfg *Config) (*Owner, error) {
	want := t.owner
	if cfg.Owner != nil {
		want = *cfg.Owner
	}
	if os.Geteuid() == 0 {
		return &want, nil
	}
	if cfg.Owner != nil && want != (Owner{os.Geteuid(), os.Getegid()}) {
		return nil, problem.New(problem.Usage, "only root can give files to %d:%d", want.UID, want.GID).
			WithHint("run n8keep as root, or as that user without --owner")
	}
	return nil, nil
}

// space is how much is needed at least, and how much there is. The old database
// needs none where it can be kept by a hard link.
func (t *target) space(cfg *Config) (need, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(t.base, &st); err != nil {
		return 0, 0, problem.Wrap(problem.Unexpected, err, "asking for the free space of %q", t.base)
	}
	free = int64(st.Bavail) * int64(st.Bsize)
	need = max(cfg.PlainSize, cfg.Sidecar.Size)
	if withoutLinks(int64(st.Type)) {
		need += max(t.size, 0)
	}
	if need > free {
		return need, free, problem.New(problem.Usage, "not enough space in %q: the restore needs %s, %s are free", t.base, bytesText(need), bytesText(free)).
			WithHint("free some space, or restore into a folder of another file system")
	}
	return need, free, nil
}

// withoutLinks knows the file systems that have no hard links, by the numbers
// that Linux gives them: FAT, exFAT, SMB 1, CIFS, SMB 2.
func withoutLinks(fsType int64) bool {
	switch uint32(fsType) {
	case 0x4d44, 0x2011bab0, 0x517b, 0xff534d42, 0xfe534d42:
		return true
	}
	return false
}

// checkKey refuses a key that is not the archive's, and tells which one it is.
func checkKey(cfg *Config) error {
	if cfg.Key.IsZero() {
		return problem.New(problem.Usage, "no instance key").WithHint("name the file that holds it with --key-file")
	}
	if cfg.KeyFingerprint == "" {
		cfg.KeyFingerprint = cfg.Key.Fingerprint()
	}
	want := n8ncrypt.Fingerprint(cfg.Sidecar.KeyFingerprint)
	if cfg.KeyFingerprint == want {
		return nil
	}
	e := problem.New(problem.WrongKey, "wrong instance key: archive %q was made with %s, the key given is %s", cfg.Sidecar.ID, want, cfg.KeyFingerprint)
	var others []archive.ID
	if cfg.OtherArchives != nil {
		others = cfg.OtherArchives(cfg.KeyFingerprint)
	}
	if len(others) == 0 {
		return e.WithHint("nothing was written and the archive is not damaged; the key that was in use on %s is needed", cfg.Sidecar.ID.Time().Format("2006-01-02"))
	}
	if others[0].Time().Before(cfg.Sidecar.ID.Time()) {
		e.Msg += fmt.Sprintf(", the key of an older backup: it opens %q", others[0])
	} else {
		e.Msg += fmt.Sprintf(", the key of a newer backup: it opens %q", others[0])
	}
	return e.WithHint("nothing was written; give the key that was in use on %s, or restore %q with this one", cfg.Sidecar.ID.Time().Format("2006-01-02"), others[0])
}

// redactURL leaves scheme and host of a connection string.
func redactURL(s string) string {
	scheme, rest, _ := strings.Cut(s, "://")
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = rest[i+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}

func prefixAll(prefix string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = prefix + s
	}
	return out
}

// cause is the system's reason without the name of the file, which the message
// has already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 4 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}
