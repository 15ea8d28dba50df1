package n8ndb

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Version is what is known of the n8n that used the database last.
type Version struct {
	// N8N is "2.41.1" where n8n keeps a history of its versions (2.15 and later),
	// and else bounded by the migrations that ran: "2.0.x", "2.1 to 2.4". "" is
	// older than anything known.
	N8N           string
	Source        string // "instance_version_history", "migrations" or ""
	LastMigration string // name of the newest, with its timestamp
	Migrations    int64
	Warning       string // names a migration that is newer than anything known
}

// Before reports whether the version is known to be older. An unknown one is.
func (v Version) Before(major, minor int) bool {
	first, _, _ := strings.Cut(v.N8N, " ")
	parts := strings.SplitN(first, ".", 3)
	if len(parts) < 2 {
		return true
	}
	a, _ := strconv.Atoi(parts[0])
	b, _ := strconv.Atoi(parts[1])
	return a < major || a == major && b < minor
}

// NewestKnown is the newest n8n that was looked into. Databases of newer ones are
// served, with a warning.
const NewestKnown = "2.41.1"

// Its newest migration.
const (
	newestMigration = "AddExecutionScopesToCustomRoles1789995003141"
	newestTimestamp = 1789995003141
)

// epochs bound versions that keep no history, newest first: a database in which the
// migration ran is of that n8n. The bounds were taken from published packages.
func epochs() []struct{ migration, n8n string } {
	return []struct{ migration, n8n string }{
		{"CreateDeploymentKeyTable1777000000000", "2.18 or newer"},
		{"CreateSecretsProvidersConnectionTables1769433700000", "2.7 to 2.17"},
		{"AddDynamicCredentialUserEntryTable1768901721000", "2.5 to 2.7"},
		{"CreateCredentialResolverTable1764682447000", "2.1 to 2.4"},
		{"ActivateExecuteWorkflowTriggerWorkflows1763048000000", "2.0.x"},
		{"AddInsightsRawTimestampIdIndex1784000000004", "1.123.x"},
		{"BackfillMissingWorkflowHistoryRecords1765448186933", "1.123.x"},
	}
}

// Version reads the n8n version and the last migration.
func (db *DB) Version(ctx context.Context) (version Version, err error) {
	err = db.view(ctx, func(v *view) error {
		version, err = v.version(ctx)
		return err
	})
	return version, err
}

func (v *view) version(ctx context.Context) (Version, error) {
	var out Version
	ran := map[string]bool{}
	newer := ""
	stmt := `SELECT t."name", t."timestamp" FROM ` + v.db.from(v.db.table("migrations")) + ` AS t ORDER BY t."timestamp", t."id"`
	_, err := v.rows(ctx, stmt, nil, 2, 0, func(cols []any) error {
		out.LastMigration = textOf(cols[0])
		out.Migrations++
		ran[out.LastMigration] = true
		if at, _ := strconv.ParseInt(textOf(cols[1]), 10, 64); at > newestTimestamp {
			newer = out.LastMigration
		}
		return nil
	})
	if err != nil {
		return Version{}, err
	}
	if newer != "" {
		out.Warning = fmt.Sprintf("the database is newer than n8keep knows: migration %q came after %q", newer, newestMigration)
	}
	if t := v.db.table("instance_version_history"); t != nil {
		stmt := `SELECT t."major", t."minor", t."patch" FROM ` + v.db.from(t) + ` AS t ORDER BY t."id" DESC LIMIT 1`
		_, err := v.rows(ctx, stmt, nil, 3, 0, func(cols []any) error {
			out.N8N = textOf(cols[0]) + "." + textOf(cols[1]) + "." + textOf(cols[2])
			out.Source = "instance_version_history"
			return nil
		})
		if err != nil || out.N8N != "" {
			return out, err
		}
	}
	for _, e := range epochs() {
		if ran[e.migration] {
			out.N8N, out.Source = e.n8n, "migrations"
			break
		}
	}
	return out, nil
}
