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

// Config is the whole file.
type Config struct {
	// Instances are the n8n instances of this host, by the name that archives
	// carry (lower-case letters, digits, dots and hyphens, at most 63). Optional:
	// --n8n-dir and --instance describe one without a file.
	Instances map[string]Instance `yaml:"instances" name:"prod"`

	// Targets are places where archives go, by a name of your choice, which
	// --target then accepts. Optional: --target also takes a folder.
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
	// default database.sqlite in n8n_dir.
	Database Address `yaml:"database" flag:"database" example:"env:N8KEEP_DATABASE"`

	// Schema is n8n's DB_POSTGRESDB_SCHEMA. Optional: by default public. It means
	// nothing for SQLite.
	Schema string `yaml:"schema" flag:"schema" kind:"identifier" example:"public"`

	// HealthURL is asked whether n8n runs before its database is replaced.
	// Optional; empty means that it is not asked.
	HealthURL string `yaml:"health_url" flag:"health-url" kind:"url" example:"http://127.0.0.1:5678/healthz"`

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
}

// Redacts is Redact with its default.
func (i Instance) Redacts() bool { return i.Redact == nil || *i.Redact }

// Target is a place where archives go: exactly one of its fields is set.
type Target struct {
	// Path is a folder, made (0700) when missing. Required, unless url is given.
	Path string `yaml:"path" flag:"target" kind:"path" example:"/var/backups/n8n"`

	// URL is the same as an address; file:///FOLDER is the only kind so far.
	// Required, unless path is given.
	URL string `yaml:"url" flag:"target" kind:"target" example:"file:///var/backups/n8n"`
}

// Location is the path or the address, whichever is set.
func (t Target) Location() string {
	if t.Path != "" {
		return t.Path
	}
	return t.URL
}
