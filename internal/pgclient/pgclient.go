// Package pgclient finds and runs PostgreSQL's own pg_dump and pg_restore.
//
// [Find] looks for programs that are new enough for a server or an archive; [Dump]
// writes an uncompressed custom-format archive as a stream, [Restore] loads one and
// [Script] turns one into plain SQL. pg_dump refuses servers newer than itself and
// pg_restore refuses archives of a newer pg_dump, so both are refused here first,
// with the names of the packages to install. The archive is PostgreSQL's format:
// every later pg_restore reads it, and so does a user without n8keep.
//
// A run is whole or an error: a non-zero exit, an error line on stderr, a failing
// output, a signal. A restore stops at its first failing statement and names it; what
// it did before stays in that database, which the caller throws away. Rows are never
// quoted: PostgreSQL's CONTEXT and DETAIL lines, which may, are left out.
//
// A password goes into the environment of the one process that needs it, never into
// arguments, logs or errors; of our own environment only what libpq and the system
// need is passed on. A client key with a passphrase (sslpassword) is refused, since
// there is no way to hand it over unseen.
//
// A run ends with its context: the whole process group gets SIGTERM, on which the
// programs cancel their query on the server, then SIGKILL. On Linux the kernel ends
// them when we die, however we die.
package pgclient

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Programs are a pg_dump and a pg_restore of one release.
type Programs struct {
	Dump, Restore string // paths
	Version       int    // as in server_version_num: 150018 is 15.18
}

// Release is the version as people write it.
func (p Programs) Release() string { return release(p.Version) }

func release(num int) string {
	if num < 100000 {
		return fmt.Sprintf("%d.%d.%d", num/10000, num/100%100, num%100)
	}
	return fmt.Sprintf("%d.%d", num/10000, num%10000)
}

// series is the number that compatibility goes by: 15 for 15.18, and 0 for all
// before 10, which nobody dumps n8n from.
func series(num int) int {
	if num < 100000 {
		return 0
	}
	return num / 10000
}

// passedOn are the names and beginnings of names of variables that the programs get
// from our environment, which may hold n8n's secrets.
func passedOn(name string) bool {
	if slices.Contains([]string{"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
		"OPENSSL_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", "SystemRoot", "APPDATA"}, name) {
		return true
	}
	if name == "PGAPPNAME" || name == "PGCLIENTENCODING" || name == "PGPASSWORD" {
		return false
	}
	return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "KRB5")
}

// environment is that of a program. Its own messages are in English, which is what
// is looked for in them.
func environment(extra ...string) []string {
	env := []string{"LC_ALL=C"}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); passedOn(name) {
			env = append(env, e)
		}
	}
	return append(env, extra...)
}
