package n8ndb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/problem"
)

// NamePostgres names a database by what its server says of itself: the same name by
// whatever host name, address, socket, tunnel or pooler it is reached, and after it was
// renamed. It is "server:" and 32 hexadecimal digits of SHA-256 over the
// system_identifier of pg_control_system, which initdb makes up, and the oid of the
// database. A copy of a whole server (its files, a promoted standby) has the same names.
//
// Every role may ask in PostgreSQL 15 to 18. Where it may not, or what answers is no
// PostgreSQL, there is no name and doubt says in a plain sentence why.
func NamePostgres(ctx context.Context, dsn, app string) (name, doubt string, err error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", "", errAddress()
	}
	c.RuntimeParams["application_name"] = cmp.Or(app, "n8keep")
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // which every pooler passes on
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return "", "", explainConnect(c.Database+" on "+c.Host, c.User, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var system, database string
	err = conn.QueryRow(ctx, `SELECT s.system_identifier::text, d.oid::text
		FROM pg_catalog.pg_control_system() AS s, pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()`).Scan(&system, &database)
	var pg *pgconn.PgError
	switch {
	case err == nil:
		sum := sha256.Sum256([]byte("n8keep database\x00" + system + "\x00" + database))
		return "server:" + hex.EncodeToString(sum[:16]), "", nil
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	case errors.Is(err, pgx.ErrNoRows):
		doubt = "it knows no database of that name"
	case !errors.As(err, &pg), strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "08"):
		return "", "", explainPostgres(err)
	case pg.Code == "42501":
		doubt = "this user may not call pg_control_system, which GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC allows"
	default:
		doubt = pg.Message
	}
	return "", "the server does not say which one it is (" + doubt + "): the database is known by its address only, and a rotation of it that was begun under another address is not noticed", nil
}

// NameFile names a database file by its device and inode, which hard links and bind
// mounts have in common, and by the time at which it was made, where the file system keeps
// it: a number is given to another file when the one that had it is gone. It is "" when
// there is no file, or none that may be looked at, which whoever opens it says better.
func NameFile(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil:
	case nameless(err):
		return "", nil
	default:
		return "", problem.Wrap(problem.Unexpected, err, "looking for %q", path)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", nil
	}
	name := fmt.Sprintf("inode:%d:%d", st.Dev, st.Ino)
	if born := birth(path); born != "" {
		name += ":" + born
	}
	return name, nil
}

func nameless(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR)
}
