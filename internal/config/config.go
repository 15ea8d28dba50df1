// Package config is the file n8keep.yaml: its structs are the manual, and
// docs/operators.md repeats each field (a test compares the two).
//
// No file is needed: everything it says can be given by flags, which win. A key
// that is not known is an error with its line, because a misspelt setting that is
// silently ignored is a backup that silently is not made.
//
// The package refuses secrets. They are written as references, file:PATH or
// env:NAME, and read when they are needed. A value that looks like a secret itself
// is refused, and no message repeats any value that could be one.
//
// Paths may begin with "~/"; other relative ones count from the folder the file is
// in. A field that has stood in a released version keeps its name and meaning.
//
// Trust boundary: whoever may write the file decides whom archives are encrypted
// to and which signers are trusted. A file that merely lies in the current folder
// is therefore taken only when it belongs to the current user or to root.
package config

import "time"

// Config is the whole file.
type Config struct {
	// Instances are the n8n instances of this host, by the name that archives
	// carry (lower-case letters, digits, dots and hyphens, at most 63). Optional:
	// --n8n-dir and --instance describe one without a file.
	Instances map[string]Instance `yaml:"instances" name:"prod"`

	// Targets are places where archives go, by a name of your choice, which
	// --target then accepts. Optional: --target also takes a folder or an address.
	Targets map[string]Target `yaml:"targets" name:"local"`

	// Recipients are the age public keys that archives are encrypted to, all of
	// one kind: age1... or age1pq1.... Optional: none here means --recipient is
	// required to make a backup; flags replace this list.
	Recipients []string `yaml:"recipients" flag:"recipient" example:"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"`

	// RecipientFiles are files with one public key a line, as age reads them.
	// Optional; they are added to recipients.
	RecipientFiles []string `yaml:"recipient_files" flag:"recipient-file" kind:"path" example:"/etc/n8keep/recipients.txt"`

	// SigningKey is the Ed25519 key (PKCS#8 PEM) that signs sidecars. Optional:
	// by default signing.key in the configuration folder, made on first use.
	SigningKey Reference `yaml:"signing_key" flag:"signing-key" example:"file:/run/secrets/n8keep-signing.key"`

	// Signers are the public keys, ed25519:..., whose archives are trusted besides
	// those signed with this host's own key. Optional; --signer adds to them.
	Signers []string `yaml:"signers" flag:"signer" kind:"signer" example:"ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="`

	// StateDir holds the audit log, locks and the work folder. Optional: by
	// default n8keep in $XDG_STATE_HOME or ~/.local/state.
	StateDir string `yaml:"state_dir" flag:"state-dir" kind:"path" example:"/var/lib/n8keep"`

	// WorkDir holds database snapshots while a command runs, each in a folder that
	// only its user can read. It needs as much free space as the database is
	// large. Optional: by default work in the state folder.
	WorkDir string `yaml:"work_dir" flag:"work-dir" kind:"path" example:"/var/tmp/n8keep"`

	// History says which finished executions a backup keeps: all, none, or those
	// of a time like 12h, 30d, 2w. Optional: by default all.
	History string `yaml:"history" flag:"history" kind:"history" example:"30d"`

	// Retention says which archives "backup prune" keeps. Optional: by default
	// one of each of the last 30 days and one of each of the last 14 weeks, which
	// is 90 days.
	Retention Retention `yaml:"retention"`

	// Path is the file this was read from; "" when there was none.
	Path string `yaml:"-"`
}

// Instance is one n8n.
type Instance struct {
	// N8NDir is the folder with n8n's config and database.sqlite, usually called
	// .n8n. Required, unless database and key are given.
	N8NDir string `yaml:"n8n_dir" flag:"n8n-dir" kind:"path" example:"/home/node/.n8n"`

	// Key is where the instance key is read from. Optional: by default what n8n
	// itself would use, its environment or the config file in n8n_dir.
	Key Reference `yaml:"key" flag:"key-file" example:"file:/run/secrets/n8n-key"`

	// TablePrefix is n8n's DB_TABLE_PREFIX. Optional; empty by default.
	TablePrefix string `yaml:"table_prefix" flag:"table-prefix" kind:"identifier" example:"n8n_"`

	// Database is where n8n's data is: the path of an SQLite file, or a PostgreSQL
	// address without a password, or a reference to one with it. Optional: by
	// default that of the environment with DB_TYPE=postgresdb, else database.sqlite
	// in n8n_dir.
	Database Address `yaml:"database" flag:"database" example:"env:N8KEEP_DATABASE"`

	// Schema is n8n's DB_POSTGRESDB_SCHEMA. Optional: by default public. It means
	// nothing for SQLite.
	Schema string `yaml:"schema" flag:"schema" kind:"identifier" example:"public"`

	// HealthURL is asked whether n8n runs before its database is replaced, and after
	// a rotation until it does. Optional; empty means that it is not asked.
	HealthURL string `yaml:"health_url" flag:"health-url" kind:"url" example:"http://127.0.0.1:5678/healthz"`

	// StopCommand stops all of n8n: main, workers, webhook processes. It is run by
	// sh, and has stopped n8n when it exits with 0. Optional: a rotation without it,
	// systemd_units or compose_file demands that n8n was stopped before.
	StopCommand string `yaml:"stop_command" flag:"stop-command" kind:"command" example:"docker stop n8n"`

	// StartCommand starts n8n; after a rotation it must do so with the new key.
	// Optional, as stop_command.
	StartCommand string `yaml:"start_command" flag:"start-command" kind:"command" example:"docker start n8n"`

	// SystemdUnits are the units that n8n is, with its workers, stopped and started
	// with systemctl. Optional; instead of stop_command and start_command.
	SystemdUnits []string `yaml:"systemd_units" flag:"systemd" kind:"unit" example:"n8n.service"`

	// ComposeFile is the docker compose file that n8n is in, stopped and started
	// with docker compose. Optional; instead of stop_command and start_command.
	ComposeFile string `yaml:"compose_file" flag:"compose" kind:"path" example:"/srv/n8n/compose.yaml"`

	// ComposeServices are the services of compose_file that are stopped and started.
	// Optional: by default those that run an image of n8n.
	ComposeServices []string `yaml:"compose_services" flag:"compose-service" kind:"unit" example:"n8n"`

	// BinaryData says whether files of executions that n8n keeps in its folder go
	// into the archive. Optional: by default false. Binary data in S3 is never
	// included.
	BinaryData bool `yaml:"binary_data" flag:"binary-data" example:"true"`

	// DeploymentFiles go into the archive too: compose files, env files,
	// manifests. Optional; none by default.
	DeploymentFiles []string `yaml:"deployment_files" flag:"deployment-file" kind:"path" example:"/srv/n8n/compose.yaml"`

	// Redact says whether secret values in deployment files are replaced before
	// they are archived. Optional: by default true.
	Redact *bool `yaml:"redact" flag:"redact" example:"true"`

	// Targets are names of targets that each backup goes to. Optional: by default
	// the only target there is.
	Targets []string `yaml:"targets" flag:"target" kind:"name" example:"local"`

	// Engine says how PostgreSQL is dumped: pg_dump, native (no client program
	// needed), or auto, which takes pg_dump where one as new as the server is
	// found. Optional: by default auto.
	Engine string `yaml:"engine" flag:"engine" kind:"auto|pg_dump|native" example:"native"`

	// PgBin is the folder with pg_dump and pg_restore. Optional: by default they
	// are looked for in PATH and where distributions put them.
	PgBin string `yaml:"pg_bin" flag:"pg-bin" kind:"path" example:"/usr/lib/postgresql/17/bin"`

	// FromReplica allows a standby of PostgreSQL as the source. Optional: by
	// default false, because a replica may be behind.
	FromReplica bool `yaml:"from_replica" flag:"from-replica" example:"true"`

	// YieldAfter is how long anybody may wait for a lock that our dump of
	// PostgreSQL holds, such as an upgrade of n8n, before the dump gives way.
	// Optional: by default 30s.
	YieldAfter time.Duration `yaml:"yield_after" flag:"yield-after" example:"30s"`

	// WhenRunning says what a backup does while n8n executes something: continue,
	// wait until nothing runs, or fail. Optional: by default continue, because
	// the copy is one consistent moment either way, and because on a busy n8n
	// something always runs: to wait or fail there would be to have no backup.
	WhenRunning string `yaml:"when_running" flag:"when-running" kind:"continue|wait|fail" example:"wait"`

	// WaitLimit is how long wait waits before the backup is given up. Optional: by
	// default 10m.
	WaitLimit time.Duration `yaml:"wait_limit" flag:"wait-limit" example:"10m"`

	// APIURL is where n8n's public API answers; it is asked what runs. Optional:
	// without it the database is asked.
	APIURL string `yaml:"api_url" flag:"api-url" kind:"url" example:"http://127.0.0.1:5678"`

	// APIKey is a key of n8n's public API that may list executions. Optional; it is
	// used with api_url only.
	APIKey Reference `yaml:"api_key" flag:"api-key-file" example:"file:/run/secrets/n8n-api-key"`
}

// Redacts is Redact with its default.
func (i Instance) Redacts() bool { return i.Redact == nil || *i.Redact }

// Yield is YieldAfter with its default.
func (i Instance) Yield() time.Duration {
	if i.YieldAfter == 0 {
		return 30 * time.Second
	}
	return i.YieldAfter
}

// Wait is WaitLimit with its default.
func (i Instance) Wait() time.Duration {
	if i.WaitLimit == 0 {
		return 10 * time.Minute
	}
	return i.WaitLimit
}

// Target is a place where archives go: exactly one of its fields is set.
type Target struct {
	// Path is a folder, made (0700) when missing. Required, unless url is given.
	Path string `yaml:"path" flag:"target" kind:"path" example:"/var/backups/n8n"`

	// URL is an address: s3://BUCKET/PREFIX, gcs://, azure://, sftp:// or
	// file:///FOLDER, with the parameters of its kind. Required, unless path is
	// given. Only the kind is checked here; secrets do not belong into it.
	URL string `yaml:"url" flag:"target" kind:"target" example:"s3://backups/n8n?region=eu-central-1&lock=compliance&retain=30d"`
}

// Location is the path or the address, whichever is set.
func (t Target) Location() string {
	if t.Path != "" {
		return t.Path
	}
	return t.URL
}
