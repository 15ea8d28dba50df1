package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Level says how deep a verification goes; each includes the ones before.
type Level int

// Quick needs no private key: signature, signer, size and checksum of the stored
// bytes. Full decrypts, reads every entry and checks the database. Secrets opens
// every secret and compares its digest with the manifest.
const (
	Quick Level = iota
	Full
	Secrets
)

// ParseLevel reads "quick", "full" or "secrets".
func ParseLevel(s string) (Level, error) {
	for _, l := range []Level{Quick, Full, Secrets} {
		if l.String() == s {
			return l, nil
		}
	}
	return 0, problem.New(problem.Usage, "unknown level %q", s).WithHint("it is quick, full or secrets")
}

func (l Level) String() string { return [...]string{"quick", "full", "secrets"}[l] }

// VerifyConfig says what to verify and with what.
type VerifyConfig struct {
	Store      blob.Store
	ID         archive.ID
	Level      Level
	Trust      Trust
	Identities []age.Identity       // Full and Secrets
	Key        n8ncrypt.InstanceKey // Secrets
	Receipt    audit.Receipt        // Secrets
	WorkDir    string               // Full and Secrets: where the database is looked at
	Programs   string               // folder of pg_restore; "" looks in the usual ones
	Logger     *slog.Logger         // nil: slog.Default
	Progress   Progress             // nil: none
}

// Verified is what a verification found.
type Verified struct {
	Sidecar  archive.Sidecar
	Signer   archive.Signer
	Level    Level
	Manifest archive.Manifest // Full and Secrets
	Opened   int64            // secrets whose digest agrees
	Failed   []archive.Secret // secrets that do not open, as the manifest says too; the first 100
	Entries  int
	// FailedTotal counts all of them.
	FailedTotal int64
	// Altered says what was done in the target to the archive's objects after they
	// were put, one [FoundAltered] for each. What was verified is what was put first.
	Altered []archive.Finding

	list []pair // what the manifest says of each secret
}

// Verify checks one archive. An archive that is what its manifest says is no
// error, even if the manifest lists secrets that do not open: see Verified.
func Verify(ctx context.Context, cfg VerifyConfig) (*Verified, error) {
	v, err := newVerifier(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Level == Quick {
		return &v.result, v.quick(ctx)
	}
	work, err := OpenWork(cfg.WorkDir, v.Logger)
	if err != nil {
		return nil, err
	}
	defer work.Close()
	if err := work.NeedToUnpack(v.result.Sidecar.PlainSize); err != nil {
		return nil, err
	}
	keep := func(name string) bool {
		return name == DatabaseEntry || isDump(name) || strings.HasPrefix(name, storageEntries+"workflows/")
	}
	if err := v.unpack(ctx, work.Dir, keep); err != nil {
		return nil, err
	}
	return &v.result, nil
}

// Unpack is Verify at level Secrets that also leaves what the archive holds
// below dir: database/, files/ and workflows/ as in the archive. When it
// returns an error, nothing below dir may be used.
func Unpack(ctx context.Context, cfg VerifyConfig, dir string) (*Verified, error) {
	cfg.Level = Secrets
	v, err := newVerifier(ctx, cfg)
	if err != nil {
		return nil, err
	}
	err = v.unpack(ctx, dir, func(name string) bool {
		return name == DatabaseEntry || isDump(name) || strings.HasPrefix(name, FileFolder)
	})
	if err != nil {
		return nil, err
	}
	return &v.result, nil
}

// ReadSidecar reads an archive's sidecar and checks its signature and signer.
func ReadSidecar(ctx context.Context, store blob.Store, id archive.ID, trust Trust) (archive.SignedSidecar, error) {
	signed, _, err := readTrusted(ctx, store, id, trust)
	return signed, err
}

func readTrusted(ctx context.Context, store blob.Store, id archive.ID, trust Trust) (archive.SignedSidecar, blob.Info, error) {
	signed, info, err := readSidecar(ctx, store, id)
	if err != nil {
		return signed, info, err
	}
	return signed, info, trust.Check(signed)
}

type verifier struct {
	VerifyConfig
	result Verified
	hash   hash.Hash
}

func newVerifier(ctx context.Context, cfg VerifyConfig) (*verifier, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	signed, info, err := readTrusted(ctx, cfg.Store, cfg.ID, cfg.Trust)
	if err != nil {
		return nil, err
	}
	v := &verifier{VerifyConfig: cfg, hash: sha256.New(), result: Verified{Sidecar: signed.Sidecar, Signer: signed.Signer, Level: cfg.Level}}
	v.result.Altered = altered(cfg.ID, info)
	if cfg.Level == Secrets {
		if err := CheckKey(signed.Sidecar, cfg.Key); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// CheckKey fails when the archive was made with another instance key.
func CheckKey(s archive.Sidecar, key n8ncrypt.InstanceKey) error {
	if fp := string(key.Fingerprint()); fp != s.KeyFingerprint {
		return problem.New(problem.WrongKey, "wrong instance key: archive %q was made with %s, the key given is %s", s.ID, s.KeyFingerprint, fp).
			WithHint("the archive is not damaged; find the key that was in use on %s, and try it with --key-file", s.Created.Format("2006-01-02"))
	}
	return nil
}

// open returns the stored bytes, hashed as they are read.
func (v *verifier) open(ctx context.Context) (io.Reader, io.Closer, error) {
	s := v.result.Sidecar
	r, info, err := v.Store.Get(ctx, s.ID.ArchiveName())
	if err != nil {
		return nil, nil, targetProblem(err, v.Store, "reading archive %q", s.ID)
	}
	v.result.Altered = append(v.result.Altered, altered(v.ID, info)...)
	if info.Size != s.Size {
		r.Close()
		what := "truncated"
		if info.Size > s.Size {
			what = "longer than it was"
		}
		return nil, nil, v.damaged(fmt.Errorf("%s: %d of %d bytes are stored", what, info.Size, s.Size))
	}
	report := v.Progress.of("reading the archive")
	counted := &countingReader{ctx: ctx, r: r, report: func(n int64) { report(n, s.Size) }}
	return io.TeeReader(counted, v.hash), r, nil
}

func (v *verifier) quick(ctx context.Context) error {
	r, c, err := v.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		return targetProblem(err, v.Store, "reading archive %q", v.ID)
	}
	return v.checkSum()
}

func (v *verifier) checkSum() error {
	if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.result.Sidecar.SHA256 {
		return v.damaged(errors.New("the checksum of the stored bytes differs from the signed one"))
	}
	return nil
}

func (v *verifier) damaged(err error) *problem.Error {
	p := &problem.Error{Kind: problem.Damaged, Msg: fmt.Sprintf("archive %q is damaged%s", v.ID, strings.TrimPrefix(": "+err.Error(), ": damaged")), Err: err,
		Hint: fmt.Sprintf("nothing was written; take another archive: \"n8keep backup list --target %s\"", flagValue(v.Store.Properties().Location))}
	for _, f := range v.result.Altered {
		p.WithHint("%s", f.Detail)
	}
	return p
}

// unpack reads the archive to its authenticated end, keeps the entries that keep
// names below dir, and proves the database.
func (v *verifier) unpack(ctx context.Context, dir string, keep func(string) bool) error {
	stored, c, err := v.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := archive.NewReader(stored, dir, v.Identities...)
	if err != nil {
		return v.readProblem(err)
	}
	defer r.Close()
	workflows := int64(0)
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return v.readProblem(err)
		}
		v.result.Entries++
		if strings.HasPrefix(e.Name, workflowFolder) {
			workflows++
		}
		if err := extract(dir, e, r, keep(e.Name)); err != nil {
			return v.readProblem(err)
		}
	}
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return targetProblem(err, v.Store, "reading archive %q", v.ID)
	}
	if err := v.checkSum(); err != nil {
		return err
	}
	failpoint.Hit("verify.extracted")
	v.result.Manifest = r.Manifest()
	if err := v.agree(r, workflows); err != nil {
		return err
	}
	if v.Level == Secrets {
		if err := v.readSecrets(r); err != nil {
			return err
		}
	}
	storage := filepath.Join(dir, filepath.FromSlash(storageEntries))
	switch v.result.Manifest.Engine {
	case EngineWorkflows:
		return nil
	case string(n8ndb.Postgres):
		return v.proveDump(ctx, dir, storage)
	}
	return v.proveDatabase(ctx, filepath.Join(dir, filepath.FromSlash(DatabaseEntry)), storage)
}

// Prove checks a database, wherever it is now, against what Unpack found in its
// archive: integrity, row counts, every secret in it.
func Prove(ctx context.Context, cfg VerifyConfig, found *Verified, database string) error {
	cfg.Level = Secrets
	v := &verifier{VerifyConfig: cfg, result: Verified{Sidecar: found.Sidecar, Manifest: found.Manifest, Level: Secrets, list: found.list}}
	return v.proveDatabase(ctx, database, "")
}

func extract(dir string, e archive.Entry, r io.Reader, keep bool) error {
	if !keep {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	if strings.HasPrefix(e.Name, DumpEntry+".") {
		return extractDump(dir, r)
	}
	path := filepath.Join(dir, filepath.FromSlash(e.Name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return f.Close() // a restore makes it durable, a verification has no need to
}

// agree compares what the sidecar promises with what the manifest says, and the
// state with what led to it.
func (v *verifier) agree(r *archive.Reader, workflows int64) error {
	s, m := v.result.Sidecar, v.result.Manifest
	state := archive.StateGood
	for _, f := range m.Findings {
		if Degrades(f.Code) {
			state = archive.StateDegraded
		}
	}
	if s.SecretsFailed > 0 {
		state = archive.StateDegraded
	}
	for _, c := range []struct {
		same bool
		what string
	}{
		{m.ID == s.ID && m.Instance == s.Instance && m.Created.Equal(s.Created), "the id"},
		{m.State == s.State && m.Unproved == s.Unproved && s.State == state, "the state"},
		{m.KeyFingerprint == s.KeyFingerprint && r.Header().KeyFingerprint == s.KeyFingerprint, "the key fingerprint"},
		{m.Engine == s.Engine && m.N8NVersion == s.N8NVersion && m.LastMigration == s.LastMigration, "the n8n version"},
		{m.History == s.History, "the history"},
		{int64(len(m.Entries)) == s.Entries, "the number of entries"},
		{int64(len(m.Findings)) == s.Findings, "the number of findings"},
		{workflows == s.Workflows, "the number of workflows"},
	} {
		if !c.same {
			return v.damaged(fmt.Errorf("sidecar and manifest differ in %s", c.what))
		}
	}
	return nil
}

func (v *verifier) readProblem(err error) error {
	var p *problem.Error
	switch {
	case errors.As(err, &p):
		return err
	case errors.Is(err, context.Canceled):
		return problem.Wrap(problem.Interrupted, err, "reading archive %q", v.ID)
	case errors.Is(err, archive.ErrNoIdentity):
		return problem.New(problem.NoIdentity, "no identity given opens archive %q", v.ID).
			WithHint("give the identity that belongs to one of its recipients with --identity FILE (the archive uses %s)", v.result.Sidecar.RecipientKind)
	case errors.Is(err, archive.ErrFormat):
		return problem.Wrap(problem.Usage, err, "archive %q", v.ID).WithHint("use the n8keep that wrote it, or a newer one")
	case errors.Is(err, archive.ErrDamaged), errors.Is(err, archive.ErrTruncated):
		return v.damaged(err)
	}
	return problem.Wrap(problem.Unexpected, err, "reading archive %q", v.ID)
}

// proveDatabase checks the extracted database against the manifest.
func (v *verifier) proveDatabase(ctx context.Context, path, storage string) error {
	m := v.result.Manifest
	report, err := n8ndb.CheckIntegrity(ctx, path)
	if err != nil {
		return err
	}
	if len(report.Problems) > 0 && !hasFinding(m, FindingIntegrity) {
		return v.damaged(fmt.Errorf("the database fails its integrity check: %s", strings.Join(firstOf(report.Problems, 3), "; ")))
	}
	db, err := n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: path, TablePrefix: m.TablePrefix, Immutable: true})
	if err != nil {
		return err
	}
	defer db.Close()
	counts, err := db.RowCounts(ctx)
	if err := v.tolerate(err); err != nil {
		return err
	}
	if err := v.sameCounts(counts); err != nil {
		return err
	}
	if v.Level < Secrets {
		return nil
	}
	return v.proveSecrets(ctx, db, storage)
}

// sameCounts compares the rows of each table with the manifest.
func (v *verifier) sameCounts(counts []n8ndb.RowCount) error {
	m := v.result.Manifest
	if len(counts) != len(m.Tables) {
		return v.damaged(fmt.Errorf("the database has %d tables, the manifest %d", len(counts), len(m.Tables)))
	}
	for i, c := range counts {
		if c.Table != m.Tables[i].Table || c.Rows != m.Tables[i].Rows {
			return v.damaged(fmt.Errorf("table %q has %d rows, the manifest says %d in %q", c.Table, c.Rows, m.Tables[i].Rows, m.Tables[i].Table))
		}
	}
	return nil
}

func hasFinding(m archive.Manifest, code string) bool {
	for _, f := range m.Findings {
		if f.Code == code {
			return true
		}
	}
	return false
}
