package backup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// Work is the private folder of one run: 0700, removed by Close, and, when the
// run was killed, by the next OpenWork on the same root.
type Work struct {
	Dir  string
	lock *durable.Lock
	path string // of the lock file
}

// workName is what a run's folder is called; its lock file has lockSuffix more.
// Nothing else below the root is ever touched: it may be anybody's folder.
var workName = regexp.MustCompile(`^n8keep-work-[a-z2-7]{12}$`)

const (
	workPrefix = "n8keep-work-"
	lockSuffix = ".lock"
)

// OpenWork makes a folder below root, after removing those whose run is dead. A
// run is alive as long as the kernel holds its lock.
func OpenWork(root string, logger *slog.Logger) (*Work, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making work folder %q", root).
			WithHint("choose another with --work-dir")
	}
	SweepWork(root, logger)
	for range 10 {
		name := workPrefix + strings.ToLower(rand.Text()[:12])
		path := filepath.Join(root, name+lockSuffix)
		lock, err := durable.TryLock(path)
		if errors.Is(err, durable.ErrLocked) {
			continue // a sweeping neighbour looked at it first and will remove it
		}
		if err != nil {
			return nil, problem.Wrap(problem.Unexpected, err, "making work folder").WithHint("choose another with --work-dir")
		}
		w := &Work{Dir: filepath.Join(root, name), lock: lock, path: path}
		if err := os.Mkdir(w.Dir, 0o700); err != nil {
			w.Close()
			return nil, problem.Wrap(problem.Unexpected, err, "making work folder").WithHint("choose another with --work-dir")
		}
		failpoint.Hit("work.made")
		return w, nil
	}
	return nil, problem.New(problem.Busy, "no work folder to be had below %q", root)
}

// SweepWork removes what dead runs left below root, which need not exist: the
// folder first, its lock file last, so that a folder without a lock file never
// exists. Only folders of this user's that are named as ours are removed.
func SweepWork(root string, logger *slog.Logger) {
	locks, _ := filepath.Glob(filepath.Join(root, workPrefix+"*"+lockSuffix))
	for _, path := range locks {
		dir := strings.TrimSuffix(path, lockSuffix)
		if !workName.MatchString(filepath.Base(dir)) || !ours(path) {
			continue
		}
		lock, err := durable.TryLock(path)
		if err != nil {
			continue
		}
		if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
			lock.Unlock()
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			logger.Warn("leftover of a dead run not removed", "error", err)
		} else {
			os.Remove(path)
		}
		lock.Unlock()
	}
}

// ours reports a regular file that belongs to this user.
func ours(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

// Close removes the folder and everything in it.
func (w *Work) Close() error {
	failpoint.Hit("work.closing")
	err := os.RemoveAll(w.Dir)
	if err == nil {
		err = os.Remove(w.path)
	}
	return errors.Join(err, w.lock.Unlock())
}

// Need fails when the folder's file system has less than n bytes free for the copy
// that a backup makes.
func (w *Work) Need(n int64) error {
	return w.need(n, "a private copy of the database", "choose a larger file system with --work-dir, or leave finished executions out with --history none")
}

// NeedToUnpack is Need for what an archive holds.
func (w *Work) NeedToUnpack(n int64) error {
	return w.need(n, "what the archive holds", "give another folder with --work-dir")
}

func (w *Work) need(n int64, what, hint string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(w.Dir, &st); err != nil {
		return nil // not knowable here; a full disk is met when writing
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < n {
		return problem.New(problem.Usage, "the work folder needs %d MiB for %s and has %d MiB free", n>>20, what, free>>20).WithHint("%s", hint)
	}
	return nil
}

// lockInstance makes sure that one instance is worked on by one run at a time.
func lockInstance(dir, instance string) (*durable.Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making lock folder %q", dir).WithHint("choose another with --state-dir")
	}
	lock, err := durable.TryLock(filepath.Join(dir, instance+".lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, problem.New(problem.Busy, "another n8keep works on instance %q", instance).
			WithHint("wait for it to end; the lock goes with its process, there is nothing to remove")
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "locking instance %q", instance)
	}
	return lock, nil
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading size of %q: %w", path, err)
	}
	return info.Size(), nil
}
