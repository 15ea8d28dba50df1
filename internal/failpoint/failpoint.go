// Package failpoint names the moments at which a killed process would leave the
// most behind: before and after every write, rename and fsync of a backup or a
// restore. In an ordinary build [Hit] does nothing and is inlined away. Built
// with the tag `failpoint`, the environment variable N8KEEP_FAILPOINT makes it
// record or die:
//
//	N8KEEP_FAILPOINT=list:FILE    append each point that is passed to FILE
//	N8KEEP_FAILPOINT=kill:N       SIGKILL this process at the N-th point passed (from 1)
//
// Released binaries are built without the tag, so the variable means nothing to
// them.
package failpoint
