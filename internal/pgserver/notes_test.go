package pgserver

import (
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/pgtest"
)

func TestNotes(t *testing.T) {
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	at := func(h int) *time.Time { x := now.Add(-time.Duration(h) * time.Hour); return &x }
	lag := 90.0
	on := condition{ArchiveMode: "on", WALLevel: "replica", TransactionIDsUntilFreeze: 2e9, Feedback: true}
	with := func(change func(*condition)) condition { c := on; change(&c); return c }
	const only = "a backup like this one is the only way back"
	for _, c := range []struct {
		name        string
		server      Server
		condition   condition
		fromReplica bool
		want        []string
	}{
		{"off", Server{Version: 160000}, with(func(c *condition) { c.ArchiveMode = "off" }), false, []string{"archive_mode is off: there is no point-in-time recovery, " + only}},
		{"minimal", Server{Version: 160000}, with(func(c *condition) { c.WALLevel = "minimal" }), false, []string{"wal_level is minimal: there is no point-in-time recovery, " + only}},
		{"nothing yet", Server{Version: 160000}, on, false, []string{"archive_mode is on, but nothing has been archived yet"}},
		{"works", Server{Version: 160000}, with(func(c *condition) { c.LastArchived, c.LastFailed = at(1), at(2) }), false, []string{"archiving is on, the last segment went at 2026-08-01 01:00 UTC: point-in-time recovery seems possible"}},
		{"fails", Server{Version: 160000}, with(func(c *condition) { c.LastArchived, c.LastFailed, c.Failed = at(3), at(2), 7 }), false,
			[]string{"archiving fails since 2026-08-01 00:00 UTC (7 failures): point-in-time recovery does not reach the present, and the server's disk fills up"}},
		{"rds", Server{Version: 160000}, with(func(c *condition) { c.Settings, c.Roles = []string{"rds"}, []string{"rds_superuser"} }), false,
			[]string{"managed server (Amazon RDS): point-in-time recovery belongs to the service; see there how many days back it reaches"}},
		{"old", Server{Version: 130022}, with(func(c *condition) { c.ArchiveMode = "off" }), true,
			[]string{"a standby was allowed, but this server is a primary", "archive_mode is off: there is no point-in-time recovery, " + only, "PostgreSQL 13 has had no fixes since November 2025: plan an upgrade"}},
		{"standby", Server{Version: 160000, Replica: true}, with(func(c *condition) { c.LagSeconds, c.Feedback = &lag, false }), true,
			[]string{"read from a standby", "the standby has not replayed all that it received: the last change it shows is 1m30s old", "hot_standby_feedback is off on the standby: it may cancel a long backup", "archive_mode is on; whether archiving works shows on the primary"}},
		{"paused", Server{Version: 160000, Replica: true}, with(func(c *condition) { c.Paused, c.TransactionIDsUntilFreeze = true, 1000 }), true,
			[]string{"read from a standby", "the standby's replay is paused: the backup shows the moment at which it stopped", "archive_mode is on; whether archiving works shows on the primary", "the database is close to the end of its transaction ids: run VACUUM FREEZE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := notes(c.server, c.condition, c.fromReplica, now); strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestServices(t *testing.T) {
	for want, c := range map[string]condition{
		"Amazon Aurora": {Aurora: true, Settings: []string{"rds"}}, "Azure Database for PostgreSQL": {Settings: []string{"azure"}}, "Google Cloud SQL": {Roles: []string{"cloudsqlsuperuser"}},
		"Google AlloyDB": {Settings: []string{"alloydb"}, Roles: []string{"cloudsqlsuperuser"}}, "Neon": {Roles: []string{"neon_superuser"}}, "Supabase": {Roles: []string{"supabase_admin"}},
		"DigitalOcean": {Roles: []string{"doadmin"}}, "Aiven": {Roles: []string{"avnadmin"}}, "Crunchy Bridge": {Roles: []string{"crunchy_superuser"}}, "": {},
	} {
		if got := c.service(); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}

// The real server, as it is and made to look like a service.
func TestNotesOfARealServer(t *testing.T) {
	dsn := pgtest.New(t)
	s := open(t, SourceConfig{DSN: dsn, FromReplica: true, Now: func() time.Time { return time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC) }})
	got := strings.Join(s.Notes(), "\n")
	for _, want := range []string{"a standby was allowed, but this server is a primary", "archive_mode is off", "has had no fixes since November"} {
		if !strings.Contains(got, want) {
			t.Errorf("notes %q, want %q", s.Notes(), want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	admin := session(t, dsn)
	run(t, admin, `CREATE ROLE rds_superuser`)
	got = strings.Join(open(t, SourceConfig{DSN: dsn}).Notes(), "\n")
	run(t, admin, `DROP ROLE rds_superuser`)
	if !strings.Contains(got, "Amazon RDS") {
		t.Errorf("%q", got)
	}
}
