package pgclient

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/n8keep/n8keep/internal/pgtest"
)

// benchDSN is the database that N8KEEP_BENCH_DSN names, see scripts/benchdata, or a small one.
func benchDSN(b *testing.B) string {
	if dsn := os.Getenv("N8KEEP_BENCH_DSN"); dsn != "" {
		return dsn
	}
	return pgtest.Restore(b, fixture)
}

// cpu is the time that this process and what it waited for have used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if err := syscall.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return sum
}

func size(b *testing.B, path string) (n int64) {
	b.Helper()
	if err := filepath.WalkDir(path, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			info, e := d.Info()
			if e != nil {
				return e
			}
			n += info.Size()
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return n
}

// measure runs f, which makes the file or folder that it is given, and reports CPU and size beside the time.
func measure(b *testing.B, f func(b *testing.B, path string) error) {
	b.ReportAllocs()
	var used time.Duration
	var bytes int64
	for b.Loop() {
		b.StopTimer()
		path := filepath.Join(b.TempDir(), "out")
		before := cpu(b)
		b.StartTimer()
		if err := f(b, path); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		used += cpu(b) - before
		bytes = size(b, path)
		if err := os.RemoveAll(path); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(bytes)/1e6, "MB")
}

// own runs pg_dump as people do by hand.
func own(b *testing.B, dsn string, args ...string) func(*testing.B, string) error {
	c, err := connect(dsn, "n8keep-bench")
	if err != nil {
		b.Fatal(err)
	}
	dump := programs(b).Dump
	return func(b *testing.B, path string) error {
		cmd := exec.Command(dump, append(args, "--no-sync", "--file="+path, "--dbname="+c.conninfo)...)
		cmd.Env, cmd.Stderr = environment(c.env...), os.Stderr
		return cmd.Run()
	}
}

// ours is [Dump] into a file, through package archive's compression or as it is.
func ours(b *testing.B, dsn string, compress bool) func(*testing.B, string) error {
	p := programs(b)
	return func(b *testing.B, path string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		cfg := DumpConfig{Programs: p, DSN: dsn, WholeDatabase: true, Out: f}
		if !compress {
			return Dump(b.Context(), cfg)
		}
		z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return err
		}
		cfg.Out = z
		if err := Dump(b.Context(), cfg); err != nil {
			return err
		}
		return z.Close()
	}
}

// BenchmarkDump compares what is worth the while: pg_dump uncompressed through zstd, as a backup does it, its own
// compression, and a parallel dump of tables into a folder.
func BenchmarkDump(b *testing.B) {
	dsn := benchDSN(b)
	b.Run("thrown-away", func(b *testing.B) {
		p := programs(b)
		measure(b, func(b *testing.B, path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return Dump(b.Context(), DumpConfig{Programs: p, DSN: dsn, WholeDatabase: true, Out: io.Discard})
		})
	})
	b.Run("uncompressed", func(b *testing.B) { measure(b, ours(b, dsn, false)) })
	b.Run("zstd", func(b *testing.B) { measure(b, ours(b, dsn, true)) })
	b.Run("Fc", func(b *testing.B) { measure(b, own(b, dsn, "-Fc")) })
	b.Run("Fc-Z1", func(b *testing.B) { measure(b, own(b, dsn, "-Fc", "-Z1")) })
	b.Run("Fd-j2", func(b *testing.B) { measure(b, own(b, dsn, "-Fd", "-j2")) })
	b.Run("Fd-j2-Z1", func(b *testing.B) { measure(b, own(b, dsn, "-Fd", "-j2", "-Z1")) })
	b.Run("Fd-j2-Z0", func(b *testing.B) { measure(b, own(b, dsn, "-Fd", "-j2", "-Z0")) })
}

// BenchmarkRestore compares archives that were a stream, whose table of contents does not say where the tables begin,
// with others, and the reading of one as plain SQL.
func BenchmarkRestore(b *testing.B) {
	dsn, p := benchDSN(b), programs(b)
	for _, kind := range []struct {
		name string
		make func(*testing.B, string) error
	}{{"stream", ours(b, dsn, false)}, {"Fc", own(b, dsn, "-Fc")}, {"Fd", own(b, dsn, "-Fd", "-Z0")}} {
		b.Run(kind.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "dump")
			if err := kind.make(b, path); err != nil {
				b.Fatal(err)
			}
			measure(b, func(b *testing.B, out string) error {
				b.StopTimer()
				target := pgtest.New(b)
				b.StartTimer()
				if err := os.WriteFile(out, nil, 0o600); err != nil {
					return err
				}
				_, err := Restore(b.Context(), RestoreConfig{Programs: p, DSN: target, File: path, Jobs: 2})
				return err
			})
		})
	}
	b.Run("script", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "dump")
		if err := ours(b, dsn, false)(b, path); err != nil {
			b.Fatal(err)
		}
		measure(b, func(b *testing.B, out string) error {
			if err := os.WriteFile(out, nil, 0o600); err != nil {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return ScriptFrom(b.Context(), p, bufio.NewReaderSize(f, 1<<20), io.Discard)
		})
	})
}
