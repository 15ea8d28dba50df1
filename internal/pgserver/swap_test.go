package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func made(t *testing.T, tg *Target) (Dest, *Temporary) {
	t.Helper()
	d, err := tg.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := tg.Create(t.Context(), d, archiveID)
	if err != nil {
		t.Fatal(err)
	}
	return d, n
}

var newRows = []string{`CREATE TABLE workflow_entity (id text)`, `INSERT INTO workflow_entity VALUES ('new')`}

// rowIn reads the one row of workflow_entity.
func rowIn(t *testing.T, dsn string) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	return value[string](t, c, `SELECT id FROM workflow_entity`)
}

func TestSwap(t *testing.T) {
	for _, version := range pgtest.Versions() {
		// Roles changed in 16, locales in 15 and 17.
		if version == pgtest.Versions()[0] || version == 18 || os.Getenv("N8KEEP_SOAK") != "" {
			t.Run(fmt.Sprint(version), func(t *testing.T) { swap(t, pgtest.NewVersion(t, version)) })
		}
	}
}

func swap(t *testing.T, dsn string) {
	db := nameOf(t, dsn)
	owner := role(t, dsn, "NOSUPERUSER")
	reader := role(t, dsn, "NOSUPERUSER")
	admin := role(t, dsn, "NOSUPERUSER CREATEDB")
	dropLater(t, dsn, db)
	main := maintenance(t, dsn)
	for _, s := range []string{
		`ALTER DATABASE %s OWNER TO "` + owner + `"`, `REVOKE ALL ON DATABASE %s FROM PUBLIC`, `GRANT CONNECT ON DATABASE %s TO "` + reader + `"`, `GRANT CONNECT, TEMPORARY ON DATABASE %s TO "` + admin + `" WITH GRANT OPTION`,
		`ALTER DATABASE %s CONNECTION LIMIT 17`, `ALTER DATABASE %s SET search_path TO public, "we ird"`, `ALTER DATABASE %s SET work_mem TO '8MB'`, `COMMENT ON DATABASE %s IS 'it''s n8n'`,
	} {
		run(t, main, fmt.Sprintf(s, db))
	}
	run(t, main, `GRANT "`+owner+`" TO "`+admin+`"`)
	t.Cleanup(func() {
		c := context.Background()
		m, err := pgx.Connect(c, in(t, dsn, "postgres"))
		if err != nil {
			t.Error(err)
			return
		}
		defer m.Close(c)
		for _, x := range databases2(c, m, db) {
			m.Exec(c, `ALTER DATABASE `+quote(x)+` OWNER TO postgres`)
			m.Exec(c, `REVOKE ALL ON DATABASE `+quote(x)+` FROM "`+reader+`", "`+admin+`"`)
		}
	})
	mine := as(t, dsn, owner, "p")
	with(t, mine, append(slices.Clone(n8nLike), `GRANT SELECT ON workflow_entity TO "`+reader+`"`, `GRANT USAGE ON SCHEMA public TO "`+reader+`"`)...)

	cfg := DestConfig{DSN: mine, AdminDSN: in(t, as(t, dsn, admin, "p"), "postgres"), Now: func() time.Time { return time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC) }}
	tg := target(t, cfg)
	d, n := made(t, tg)
	if d.Role != owner || !strings.HasPrefix(n.Name, db+"_n8keep_") || len(n.Warnings) > 0 {
		t.Fatalf("%+v %+v", d, n)
	}
	with(t, n.DSN, newRows...)
	if err := tg.Finish(t.Context(), n); err != nil || len(n.Warnings) > 0 {
		t.Fatal(err, n.Warnings)
	}

	// n8n is still there, and is let in again only when it was said that it may be cut off.
	n8n := session(t, mine)
	if _, err := tg.Swap(t.Context(), n, archiveID, false); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "is in use") {
		t.Fatal(err)
	}
	run(t, n8n, `SELECT 1`)
	// n8n's role may end sessions of n8n, but not ours: the test's other one ends first.
	swapped, err := tg.Swap(t.Context(), n, archiveID, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n8n.Exec(t.Context(), `SELECT 1`); err == nil {
		t.Error("the old session goes on")
	}
	if want := db + "_before_20260801_" + n.suffix; swapped.Kept != want || swapped.DropLine() != `DROP DATABASE "`+want+`";` {
		t.Errorf("%+v", swapped)
	}
	if got := rowIn(t, mine); got != "new" {
		t.Errorf("the database has %q", got)
	}
	if got := rowIn(t, in(t, mine, swapped.Kept)); got != "old" {
		t.Errorf("the kept database has %q", got)
	}
	if got := rowIn(t, as(t, dsn, reader, "p")); got != "new" {
		t.Errorf("the reader sees %q", got)
	}
	const look = `SELECT concat_ws(' | ', pg_get_userbyid(datdba), datconnlimit, datallowconn, datacl, encoding, datcollate, datctype, shobj_description(d.oid, 'pg_database'),
		(SELECT array_agg(c ORDER BY c) FROM pg_db_role_setting s, unnest(setconfig) c WHERE setdatabase = d.oid)) FROM pg_database d WHERE datname = $1`
	was := value[string](t, main, look, swapped.Kept)
	now := value[string](t, main, look, db)
	comment := fmt.Sprintf("n8keep: %q as it was before the restore of %s; drop it when n8n works", db, archiveID)
	if strings.Replace(was, comment, "it's n8n", 1) != now || !strings.Contains(was, comment) {
		t.Errorf("was %s\nnow %s", was, now)
	}
	for _, part := range []string{owner + " | 17 | t | {", "C.UTF-8", `search_path=public, "we ird",work_mem=8MB`} {
		if !strings.Contains(strings.ReplaceAll(now, `\"`, `"`), part) && !strings.Contains(strings.NewReplacer(`\"`, `"`, `"search`, `search`, `",work`, `,work`).Replace(now), part) {
			t.Errorf("%s does not have %s", now, part)
		}
	}
	if did, err := tg.Recover(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("recovered %q, %v", did, err)
	}
	if err := tg.Drop(t.Context(), n); err != nil || rowIn(t, mine) != "new" {
		t.Errorf("dropping what has taken the place: %v", err)
	}
}

func databases2(ctx context.Context, c *pgx.Conn, like string) []string {
	rows, _ := c.Query(ctx, `SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)`, like)
	list, _ := pgx.CollectRows(rows, pgx.RowTo[string])
	return list
}

func TestNewDatabase(t *testing.T) {
	dsn := pgtest.New(t)
	name := nameOf(t, dsn) + `_Ünd "quo'ted"`
	there := in(t, dsn, name)
	dropLater(t, dsn, nameOf(t, dsn))
	tg := target(t, DestConfig{DSN: there, Schema: "flows"})
	d, n := made(t, tg)
	if d.Exists {
		t.Fatalf("%+v", d)
	}
	with(t, n.DSN, newRows...)
	s, err := tg.Swap(t.Context(), n, archiveID, false)
	if err != nil || s != (Swapped{}) || s.DropLine() != "" {
		t.Fatal(s, err)
	}
	if rowIn(t, there) != "new" || len(databases(t, dsn, "%n8keep%")) > 0 {
		t.Errorf("%q", databases(t, dsn, "%"))
	}
	if got := value[string](t, session(t, there), `SELECT pg_encoding_to_char(encoding) || coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = current_database()`); got != "UTF8" {
		t.Error(got)
	}
}

// TestEmptyDatabase: what stood there is not worth keeping, unless somebody was faster.
func TestEmptyDatabase(t *testing.T) {
	for _, filled := range []bool{false, true} {
		dsn := pgtest.New(t)
		dropLater(t, dsn, nameOf(t, dsn))
		tg := target(t, DestConfig{DSN: dsn})
		_, n := made(t, tg)
		with(t, n.DSN, newRows...)
		if filled {
			with(t, dsn, `CREATE TABLE t (n int)`)
		}
		s, err := tg.Swap(t.Context(), n, archiveID, false)
		if err != nil || (s.Kept != "") != filled || rowIn(t, dsn) != "new" {
			t.Errorf("filled %v: %+v, %v", filled, s, err)
		}
		if got := len(databases(t, dsn, nameOf(t, dsn)+"_before_%")); (got == 1) != filled {
			t.Errorf("filled %v: %d kept", filled, got)
		}
	}
}

// TestLostOnTheWay loses the session at each stage, as a killed process does.
func TestLostOnTheWay(t *testing.T) {
	for _, c := range []struct {
		name   string
		far    func(t *testing.T, tg *Target, d Dest) // how far the killed one came
		closed bool
		did    []string
	}{
		{"created", func(t *testing.T, tg *Target, d Dest) {
			if err := tg.create(t.Context(), &Temporary{Name: tg.name + "_n8keep_aaaaaa", dest: d}); err != nil {
				t.Fatal(err)
			}
		}, false, []string{"removed database"}},
		{"loading", func(t *testing.T, tg *Target, _ Dest) { made(t, tg) }, false, []string{"removed database"}},
		{"closed", func(t *testing.T, tg *Target, _ Dest) {
			_, n := made(t, tg)
			if err := tg.closeBoth(t.Context(), n, archiveID); err != nil {
				t.Fatal(err)
			}
		}, true, []string{"opened database", "removed database"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dsn := pgtest.New(t)
			db := nameOf(t, dsn)
			dropLater(t, dsn, db)
			with(t, dsn, n8nLike...)
			// Names like ours that are not ours.
			main := maintenance(t, dsn)
			for _, x := range []string{db + "_n8keep_theirs", db + "_n8keep_", db + "_n8keep_longer1", db + "_before_20260801_aaaaaa"} {
				run(t, main, `CREATE DATABASE `+quote(x))
			}
			run(t, main, `COMMENT ON DATABASE `+quote(db+"_n8keep_theirs")+` IS 'n8keep: temporary database of a restore to "other", being loaded'`)
			killed := target(t, DestConfig{DSN: dsn})
			d, err := killed.Inspect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.far(t, killed, d)
			killed.Close()

			d = dest(t, DestConfig{DSN: dsn})
			if len(d.Left) != 1 || d.Left[0].Closed != c.closed || d.Closed != c.closed {
				t.Errorf("%+v", d)
			}
			if c.closed {
				if err := d.Refuse(true, true); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "was closed by a restore that was killed") {
					t.Error(err)
				}
			}
			tg := target(t, DestConfig{DSN: dsn})
			did, err := tg.Recover(t.Context())
			if err != nil || len(did) != len(c.did) {
				t.Fatalf("%q, %v", did, err)
			}
			for i, want := range c.did {
				if !strings.HasPrefix(did[i], want) {
					t.Errorf("did %q", did)
				}
			}
			if rowIn(t, dsn) != "old" {
				t.Error("not the old rows")
			}
			if got := databases(t, dsn, db+"%"); len(got) != 5 {
				t.Errorf("left: %q", got)
			}
		})
	}
}

// TestSwapFails: whatever fails once the database is closed, it is open again.
func TestSwapFails(t *testing.T) {
	dsn := pgtest.New(t)
	db := nameOf(t, dsn)
	dropLater(t, dsn, db)
	with(t, dsn, n8nLike...)
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	tg := target(t, DestConfig{DSN: dsn, Now: func() time.Time { return now }})
	_, n := made(t, tg)
	main := maintenance(t, dsn)
	taken := db + "_before_20260801_" + n.suffix
	run(t, main, `CREATE DATABASE `+quote(taken))
	_, err := tg.Swap(t.Context(), n, archiveID, false)
	if err == nil || !strings.Contains(err.Error(), "already exists") || rowIn(t, dsn) != "old" {
		t.Fatal(err)
	}
	run(t, main, `DROP DATABASE `+quote(taken))
	// The session is lost while the swap is under way.
	run(t, main, fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, tg.admin.PgConn().PID()))
	if err := tg.rename(t.Context(), n, taken, archiveID); err == nil {
		t.Fatal("renamed without a session")
	} else if _, err2 := tg.settle(t.Context(), n, taken, err); !errors.Is(err2, err) || rowIn(t, dsn) != "old" {
		t.Errorf("%v, then %v", err, err2)
	}
	// The answer to the commit is lost.
	if err := tg.closeBoth(t.Context(), n, archiveID); err != nil {
		t.Fatal(err)
	}
	with(t, in(t, dsn, "postgres"), `SELECT 1`)
	if err := tg.rename(t.Context(), n, taken, archiveID); err != nil {
		t.Fatal(err)
	}
	if s, err := tg.settle(t.Context(), n, taken, errNone); err != nil || s.Kept != taken {
		t.Errorf("%+v, %v", s, err)
	}
	// A session lost while others loaded does not matter.
	tg1 := target2(t, tg, dsn)
	_, n1 := made(t, tg1)
	run(t, main, fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, tg1.admin.PgConn().PID()))
	_, err = tg1.Swap(t.Context(), n1, archiveID, false)
	if oid := value[uint32](t, main, `SELECT oid FROM pg_database WHERE datname = $1`, db); err != nil || oid != n1.oid {
		t.Errorf("%v, database %d", err, oid)
	}
	tg = tg1
	// A cancelled swap opens the database again, too.
	tg2 := target2(t, tg, dsn)
	_, n2 := made(t, tg2)
	ctx, cancel := context.WithCancel(t.Context())
	if err := tg2.closeBoth(ctx, n2, archiveID); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := tg2.settle(ctx, n2, "", context.Canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	with(t, dsn, `SELECT 1`)
	if err := tg2.Drop(t.Context(), n2); err != nil {
		t.Error(err)
	}
}

// target2 is a target of the same database after another one is closed.
func target2(t *testing.T, first *Target, dsn string) *Target {
	t.Helper()
	first.Close()
	return target(t, DestConfig{DSN: dsn})
}

// TestLoadsAsOwner: an administrator restores, and n8n's tables stay n8n's.
func TestLoadsAsOwner(t *testing.T) {
	dsn := pgtest.New(t)
	db := nameOf(t, dsn)
	dropLater(t, dsn, db)
	owner := role(t, dsn, "")
	with(t, dsn, `GRANT ALL ON SCHEMA public TO "`+owner+`"`)
	with(t, dsn, `CREATE EXTENSION "uuid-ossp"`, `CREATE SCHEMA extensions`, `CREATE EXTENSION dblink`, `CREATE EXTENSION isn SCHEMA extensions`, `GRANT USAGE ON SCHEMA extensions TO PUBLIC`)
	with(t, as(t, dsn, owner, "p"), append(slices.Clone(n8nLike), `CREATE TABLE workflow_isbn (id extensions.isbn)`)...)
	tg := target(t, DestConfig{DSN: dsn})
	d, n := made(t, tg)
	if d.Owner != pgtest.User || d.Role != owner || !slices.Equal(d.Extensions, []string{"dblink"}) {
		t.Fatalf("%+v", d)
	}
	with(t, n.DSN, newRows...)
	c := session(t, n.DSN)
	if got := value[string](t, c, `SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'workflow_entity'`); got != owner {
		t.Errorf("the new table belongs to %q", got)
	}
	if got := value[int](t, c, `SELECT count(*) FROM pg_extension WHERE extname = 'uuid-ossp' AND extnamespace = 'public'::regnamespace OR extname = 'isn' AND extnamespace = 'extensions'::regnamespace`); got != 2 {
		t.Errorf("%d extensions", got)
	}
	c.Close(t.Context())
	if err := tg.Drop(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := tg.Drop(t.Context(), n); err != nil {
		t.Errorf("twice: %v", err)
	}
	if got := databases(t, dsn, db+"_%"); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

func TestAffixed(t *testing.T) {
	for in, want := range map[string]string{"n8n": "n8n_x", strings.Repeat("a", 63): strings.Repeat("a", 61) + "_x", strings.Repeat("é", 31): strings.Repeat("é", 30) + "_x"} {
		if got := affixed(in, "_x"); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestSettingValues(t *testing.T) {
	for in, want := range map[string]string{`"$user", public`: `'$user', 'public'`, ``: `''`, `a,b , "c""d, e"`: `'a', 'b', 'c"d, e'`} {
		if got := settingValue("search_path", in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	if got := settingValue("work_mem", `it's \`); got != ` E'it''s \\'` {
		t.Error(got)
	}
	if got := settingName(`pgaudit.log`); got != `"pgaudit"."log"` {
		t.Error(got)
	}
}

// TestLocales: the new database sorts as the old one did.
func TestLocales(t *testing.T) {
	last := pgtest.Versions()[len(pgtest.Versions())-1]
	for _, c := range []struct {
		version int
		options string
	}{
		{pgtest.Versions()[0], `ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LC_COLLATE 'C' LC_CTYPE 'C'`},
		{pgtest.Versions()[0], `ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'`},
		{last, `ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C'`},
	} {
		dsn := pgtest.NewVersion(t, c.version)
		db := nameOf(t, dsn)
		main := maintenance(t, dsn)
		dropLater(t, dsn, db)
		run(t, main, `CREATE DATABASE `+db+`_own TEMPLATE template0 `+c.options)
		tg := target(t, DestConfig{DSN: in(t, dsn, db+"_own")})
		_, n := made(t, tg)
		const look = `SELECT (to_jsonb(d) - '{oid,datname,datfrozenxid,datminmxid,datacl}'::text[])::text FROM pg_database d WHERE datname = $1`
		if was, now := value[string](t, main, look, db+"_own"), value[string](t, main, look, n.Name); was != now {
			t.Errorf("%s:\n%s\n%s", c.options, was, now)
		}
		if err := tg.Drop(t.Context(), n); err != nil {
			t.Error(err)
		}
		tg.Close()
	}
}
