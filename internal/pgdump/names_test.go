package pgdump

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/n8keep/n8keep/internal/pgtest"
)

// names draws names that a careless script would not survive.
func names() *rapid.Generator[string] {
	nasty := []string{`"`, `'`, `\`, `;`, "\n", "\r", "\t", " ", "--", "/*", "*/", "$do$", "$do0$", "$$", `\.`, `%`, `(`, `)`, ",", ".", "ä", "日本", "🔐", "\u202e",
		"select", "user", "ORDER", "a", "B", "1", "_", `") FROM stdin;`, "\n\\! false\n", scriptHead}
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom(nasty), 1, 6).Draw(t, "parts"), "")
		for len(s) > 40 {
			r := []rune(s)
			s = string(r[:len(r)-1])
		}
		return s
	})
}

// TestNames: whatever objects are called, they come back by Restore and by psql.
func TestNames(t *testing.T) {
	rounds := 1
	if os.Getenv("N8KEEP_SOAK") != "" {
		rounds = 20
	}
	for seed := range rounds {
		seen := map[string]bool{}
		n := seed * 1000
		next := func() string {
			for {
				n++
				s := names().Example(n)
				if !seen[s] {
					seen[s] = true
					return s
				}
			}
		}
		q := func() string { return identifier(next()) }
		schema, function, typ, role := q(), q(), q(), q()
		sql := []string{
			`CREATE SCHEMA ` + schema,
			fmt.Sprintf(`DO %s`, literal(`BEGIN CREATE ROLE `+role+`; EXCEPTION WHEN duplicate_object THEN END`)),
			`CREATE TYPE ` + schema + `.` + typ + ` AS ENUM (` + literal(next()) + `, ` + literal(next()) + `)`,
			`CREATE FUNCTION ` + schema + `.` + function + `(` + q() + ` int, ` + q() + ` text DEFAULT ` + literal(next()) + `) RETURNS int LANGUAGE sql IMMUTABLE AS ` + literal("SELECT 1 -- "+next()),
			`CREATE FUNCTION ` + schema + `.touch() RETURNS trigger LANGUAGE plpgsql AS ` + literal("BEGIN RETURN NEW; END -- "+next()),
			`GRANT EXECUTE ON FUNCTION ` + schema + `.` + function + ` TO ` + role,
			`COMMENT ON FUNCTION ` + schema + `.` + function + ` IS ` + literal(next()),
		}
		for range 8 {
			table, a, b, c := schema+"."+q(), q(), q(), q()
			sql = append(sql,
				`CREATE TABLE `+table+` (`+a+` serial CONSTRAINT `+q()+` PRIMARY KEY, `+b+` text DEFAULT `+literal(next())+` CONSTRAINT `+q()+` CHECK (`+b+` <> `+literal(next())+`), `+c+` int GENERATED ALWAYS AS IDENTITY)`,
				`CREATE INDEX `+q()+` ON `+table+` (lower(`+b+`)) WHERE `+a+` > `+schema+`.`+function+`(1)`,
				`CREATE TRIGGER `+q()+` BEFORE UPDATE ON `+table+` FOR EACH ROW EXECUTE FUNCTION `+schema+`.touch(`+literal(next())+`)`,
				`CREATE VIEW `+schema+`.`+q()+` AS SELECT `+b+` AS `+q()+` FROM `+table+` WHERE `+b+` <> `+literal(next()),
				`COMMENT ON TABLE `+table+` IS `+literal(next()), `COMMENT ON COLUMN `+table+`.`+a+` IS `+literal(next()),
				`GRANT SELECT ON `+table+` TO `+role, `INSERT INTO `+table+` (`+b+`) VALUES (`+literal(next())+`), (`+literal(next())+`)`)
		}
		source, dir := pgtest.New(t), t.TempDir()
		execute(t, source, sql...)
		dumpTo(t, dir, DumpConfig{DSN: source, WholeDatabase: true})
		files, _ := filepath.Glob(filepath.Join(dir, "data", "*.sql"))
		if len(files) != 8 {
			t.Fatalf("%d data files", len(files))
		}
		checkCounts(t, source, dir)
		ours, byHand := pgtest.New(t), pgtest.New(t)
		restoreFrom(t, dir, ours)
		compare(t, "Restore", source, ours)
		psql(t, byHand, dir)
		compare(t, "psql", source, byHand)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
