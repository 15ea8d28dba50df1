package sftpblob

import (
	"fmt"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// Policy is the least that an identity of the role needs, as a section of OpenSSH's
// sshd_config. SFTP cannot separate writing from overwriting and deleting, which the
// text says.
func Policy(cfg Config, role blob.Role) (string, error) {
	options, what := "", ""
	switch role {
	case blob.Writer:
		options, what = "-P read,opendir,readdir,readlink,symlink,posix-rename,rmdir -u 0077", "stores archives, and cannot read or list them"
	case blob.Restorer:
		options, what = "-R", "lists and reads archives"
	case blob.Pruner:
		options, what = "-P write,mkdir,rmdir,rename,posix-rename,hardlink,symlink,setstat,fsetstat", "lists, reads and deletes archives"
	default:
		return "", problem.New(problem.Usage, "no role is called %q", string(role)).WithHint("roles are writer, restorer and pruner")
	}
	text := fmt.Sprintf(`# n8keep %s of %s: %s.
# For the server's sshd_config; the user's home must belong to root, with a folder in it that belongs to the user.
Match User %s
  ForceCommand internal-sftp %s
  ChrootDirectory %%h
  AllowTcpForwarding no
  X11Forwarding no
  PermitTTY no
`, role, cfg.location(), what, cfg.User, options)
	if role == blob.Writer {
		text += `# SFTP knows no right to write that is not one to overwrite and delete: whoever takes this identity can destroy archives.
# Let the server make snapshots that this user cannot reach (ZFS, btrfs, or a copy by another user), or add a target with locks.
`
	}
	return text, nil
}
