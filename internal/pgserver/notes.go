package pgserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// supportEnds is the month after which a major version gets no fixes, as the
// PostgreSQL project plans it.
func supportEnds(major int) (time.Time, bool) {
	// One version each November, from 10 in 2022 on.
	if major < 10 || major > 18 {
		return time.Time{}, false
	}
	return time.Date(2012+major, time.December, 1, 0, 0, 0, 0, time.UTC), true
}

// condition is what the notes are made of.
type condition struct {
	ArchiveMode, WALLevel     string
	Archived, Failed          int64
	LastArchived, LastFailed  *time.Time
	Settings, Roles           []string // prefixes of settings, names of roles that only services have
	Aurora                    bool
	LagSeconds                *float64 // of a standby that has not replayed all it received
	Paused                    bool
	Feedback                  bool
	TransactionIDsUntilFreeze int64
}

// look reads the condition in the snapshot's own transaction. Statistics are as
// good as the server keeps them.
func (s *Source) look(ctx context.Context) ([]string, error) {
	c, err := readCondition(ctx, s.conn, s.server.Replica)
	if err != nil {
		return nil, err
	}
	return notes(s.server, c, s.cfg.FromReplica, s.cfg.Now()), nil
}

func readCondition(ctx context.Context, conn *pgx.Conn, replica bool) (condition, error) {
	var c condition
	err := conn.QueryRow(ctx, `SELECT current_setting('archive_mode'), current_setting('wal_level'), a.archived_count, a.failed_count, a.last_archived_time, a.last_failed_time,
			ARRAY(SELECT DISTINCT split_part(name, '.', 1) FROM pg_settings WHERE split_part(name, '.', 1) IN ('rds', 'azure', 'cloudsql', 'alloydb', 'neon', 'aiven')),
			ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname IN ('rds_superuser', 'azure_pg_admin', 'cloudsqlsuperuser', 'neon_superuser', 'supabase_admin', 'doadmin', 'avnadmin', 'crunchy_superuser') ORDER BY 1),
			EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'pg_catalog' AND proname = 'aurora_version'),
			current_setting('hot_standby_feedback')::bool,
			(SELECT 2147483648 - age(datfrozenxid)::bigint FROM pg_database WHERE datname = current_database())
		FROM pg_stat_archiver a`).
		Scan(&c.ArchiveMode, &c.WALLevel, &c.Archived, &c.Failed, &c.LastArchived, &c.LastFailed, &c.Settings, &c.Roles, &c.Aurora, &c.Feedback, &c.TransactionIDsUntilFreeze)
	if err != nil {
		return c, explain(ctx, err, "asking the server how it is set up")
	}
	if !replica {
		return c, nil
	}
	err = conn.QueryRow(ctx, `SELECT CASE WHEN pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_last_wal_replay_lsn() AND pg_last_wal_receive_lsn() IS NOT NULL THEN NULL
			ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END, pg_is_wal_replay_paused()`).Scan(&c.LagSeconds, &c.Paused)
	return c, explain(ctx, err, "asking the standby how far behind it is")
}

// notes words the condition.
func notes(s Server, c condition, fromReplica bool, now time.Time) []string {
	var list []string
	note := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	service := c.service()
	switch {
	case s.Replica:
		note("read from a standby")
		switch {
		case c.Paused:
			note("the standby's replay is paused: the backup shows the moment at which it stopped")
		case c.LagSeconds != nil && *c.LagSeconds >= 1:
			note("the standby has not replayed all that it received: the last change it shows is %s old", (time.Duration(*c.LagSeconds) * time.Second).String())
		}
		if !c.Feedback {
			note("hot_standby_feedback is off on the standby: it may cancel a long backup")
		}
	case fromReplica:
		note("a standby was allowed, but this server is a primary")
	}
	switch {
	case service != "":
		note("managed server (%s): point-in-time recovery belongs to the service; see there how many days back it reaches", service)
	case c.ArchiveMode == "off":
		note("archive_mode is off: there is no point-in-time recovery, a backup like this one is the only way back")
	case c.WALLevel == "minimal":
		note("wal_level is minimal: there is no point-in-time recovery, a backup like this one is the only way back")
	case s.Replica && c.ArchiveMode != "always":
		note("archive_mode is on; whether archiving works shows on the primary")
	case c.LastFailed != nil && (c.LastArchived == nil || c.LastFailed.After(*c.LastArchived)):
		note("archiving fails since %s (%d failures): point-in-time recovery does not reach the present, and the server's disk fills up", c.LastFailed.UTC().Format("2006-01-02 15:04 MST"), c.Failed)
	case c.LastArchived == nil:
		note("archive_mode is on, but nothing has been archived yet")
	default:
		note("archiving is on, the last segment went at %s: point-in-time recovery seems possible", c.LastArchived.UTC().Format("2006-01-02 15:04 MST"))
	}
	if end, known := supportEnds(s.Major()); known && now.After(end) {
		note("PostgreSQL %d has had no fixes since November %d: plan an upgrade", s.Major(), end.Year())
	}
	if c.TransactionIDsUntilFreeze < 40_000_000 {
		note("the database is close to the end of its transaction ids: run VACUUM FREEZE")
	}
	return list
}

// service names who runs the server, by what only they add to it; "": nobody
// that is known.
func (c *condition) service() string {
	has := func(list []string, name string) bool {
		for _, x := range list {
			if strings.EqualFold(x, name) {
				return true
			}
		}
		return false
	}
	switch {
	case c.Aurora:
		return "Amazon Aurora"
	case has(c.Settings, "rds"), has(c.Roles, "rds_superuser"):
		return "Amazon RDS"
	case has(c.Settings, "azure"), has(c.Roles, "azure_pg_admin"):
		return "Azure Database for PostgreSQL"
	case has(c.Settings, "alloydb"):
		return "Google AlloyDB"
	case has(c.Settings, "cloudsql"), has(c.Roles, "cloudsqlsuperuser"):
		return "Google Cloud SQL"
	case has(c.Settings, "neon"), has(c.Roles, "neon_superuser"):
		return "Neon"
	case has(c.Roles, "supabase_admin"):
		return "Supabase"
	case has(c.Roles, "doadmin"):
		return "DigitalOcean"
	case has(c.Settings, "aiven"), has(c.Roles, "avnadmin"):
		return "Aiven"
	case has(c.Roles, "crunchy_superuser"):
		return "Crunchy Bridge"
	}
	return ""
}
