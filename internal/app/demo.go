package app

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

// The sample is testdata/fixtures/2.41.1-sqlite-keyrotation: a database that a
// real n8n 2.41.1 wrote, with credentials in both formats and two data keys.
//
//go:embed sample/database.sqlite.gz
var sampleDatabase []byte

//go:embed sample/config
var sampleConfig []byte

// DemoOptions are the options of "demo".
type DemoOptions struct {
	Version string
	Say     func(string) // gets the story line by line
}

// Demo tells the whole story on the embedded sample, in a temporary folder that
// it removes. Every claim is made by the same code that the commands use; a
// step that does not go as told is an error.
func Demo(ctx context.Context, o DemoOptions) (*api.Demo, error) {
	dir, err := os.MkdirTemp("", "n8keep-demo-")
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making a temporary folder")
	}
	defer os.RemoveAll(dir)
	d := &demo{dir: dir, say: o.Say, doc: &api.Demo{Steps: []string{}}}
	// Nothing of the user's: no configuration, no n8n, no key of the environment.
	env := map[string]string{"HOME": dir, "XDG_CONFIG_HOME": filepath.Join(dir, "etc"), "XDG_STATE_HOME": filepath.Join(dir, "state"),
		"N8KEEP_CONFIG": filepath.Join(dir, "n8keep.yaml")}
	if err := os.WriteFile(env["N8KEEP_CONFIG"], []byte("# the demo's own\n"), 0o600); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "preparing the demo")
	}
	if d.app, err = Open(Options{Version: o.Version, Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}); err != nil {
		return nil, err
	}
	if err := d.tell(ctx); err != nil {
		return nil, problem.Wrap(problem.KindOf(err), err, "the demo did not go as it should")
	}
	return d.doc, nil
}

type demo struct {
	dir string
	app *App
	say func(string)
	doc *api.Demo
	n   int
}

func (d *demo) step(format string, args ...any) {
	d.n++
	text := fmt.Sprintf(format, args...)
	d.doc.Steps = append(d.doc.Steps, text)
	d.say("")
	d.say(fmt.Sprintf("%d. %s", d.n, text))
}

func (d *demo) detail(format string, args ...any) { d.say("   " + fmt.Sprintf(format, args...)) }

func (d *demo) tell(ctx context.Context) error {
	n8n := filepath.Join(d.dir, "n8n")
	if err := writeSample(n8n); err != nil {
		return err
	}
	sample := InstanceOptions{Name: "demo", N8NDir: n8n}

	d.step("Census: open every secret that n8n keeps encrypted")
	census, err := d.app.Census(ctx, "census", sample, CensusOptions{})
	if err != nil {
		return err
	}
	d.detail("a database that n8n %s wrote; instance key %s", census.N8NVersion, census.KeyFingerprint)
	for _, p := range census.Places {
		if p.Opened > 0 {
			d.detail("%-44s %3d open", p.Place, p.Opened)
		}
	}
	d.detail("%s", census.Verdict)

	d.step("Backup: copy the database, prove the copy, encrypt it, sign it")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	target := filepath.Join(d.dir, "backups")
	made, err := d.app.BackupCreate(ctx, sample, BackupOptions{Targets: []string{target}, Recipients: []string{identity.Recipient().String()}})
	if err != nil {
		return err
	}
	d.doc.Backup = made.ID
	d.detail("%s: %s, %d bytes, %d secrets proved, %d workflows, in %.1f s", made.ID, made.State, made.Size, made.SecretsOpened, made.Workflows, made.Seconds)
	d.detail("anyone can open it without n8keep: age -d, zstd -d, tar x")

	arc := ArchiveOptions{Target: target, ID: made.ID, Identities: []age.Identity{identity}}
	if _, err := d.app.BackupVerify(ctx, arc, sample, backup.Secrets); err != nil {
		return err
	}
	d.detail("verified from the stored bytes: every secret opens and has the digest it had")

	d.step("Damage: flip one bit in the middle of a copy of the archive")
	damaged, err := damagedCopy(target, filepath.Join(d.dir, "damaged"), archive.ID(made.ID))
	if err != nil {
		return err
	}
	arc.Target = damaged
	for _, level := range []backup.Level{backup.Quick, backup.Secrets} {
		_, err = d.app.BackupVerify(ctx, arc, sample, level)
		if err := d.refused(err, problem.Damaged); err != nil {
			return err
		}
	}
	arc.Target = target

	d.step("Wrong key: try to restore with another instance key")
	wrong := filepath.Join(d.dir, "other.key")
	if err := os.WriteFile(wrong, []byte("another-instance-key-0123456789abcdef"), 0o600); err != nil {
		return err
	}
	restored := filepath.Join(d.dir, "restored")
	_, err = d.app.Restore(ctx, arc, InstanceOptions{Name: "demo", KeyFile: wrong}, RestoreOptions{To: restored})
	if err := d.refused(err, problem.WrongKey); err != nil {
		return err
	}
	if _, err := os.Stat(restored); !os.IsNotExist(err) {
		return problem.New(problem.Unexpected, "the refused restore left something behind")
	}
	d.detail("nothing was written")

	d.step("Restore: into an empty folder, with the right key")
	back, err := d.app.Restore(ctx, arc, sample, RestoreOptions{To: restored})
	if err != nil {
		return err
	}
	again, err := d.app.Census(ctx, "census", InstanceOptions{Name: "restored", N8NDir: restored}, CensusOptions{})
	if err != nil {
		return err
	}
	if again.Totals != census.Totals || back.SecretsOpened != made.SecretsOpened {
		return problem.New(problem.Unexpected, "the restored database holds other secrets: %+v, before %+v", again.Totals, census.Totals)
	}
	d.doc.SecretsProved = back.SecretsOpened
	d.detail("%d secrets open in the restored database, each with the digest it had in the original", back.SecretsOpened)

	d.say("")
	d.say("That was the story. On your own n8n, with nothing installed or changed:")
	d.say("")
	d.say("  n8keep census --n8n-dir ~/.n8n")
	d.say("  n8keep init --n8n-dir ~/.n8n --target /var/backups/n8n")
	d.say("  n8keep backup create")
	return nil
}

// refused checks that something failed as it should.
func (d *demo) refused(err error, kind problem.Kind) error {
	if err == nil {
		return problem.New(problem.Unexpected, "what should have been refused was not")
	}
	if problem.KindOf(err) != kind {
		return err
	}
	d.detail("refused, exit code %d: %v", kind.Exit(), err)
	return nil
}

func writeSample(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), sampleConfig, 0o600); err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(sampleDatabase))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "database.sqlite"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, z); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// damagedCopy copies an archive with one bit flipped.
func damagedCopy(from, to string, id archive.ID) (string, error) {
	if err := os.Mkdir(to, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{id.ArchiveName(), id.SidecarName()} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return "", err
		}
		if name == id.ArchiveName() {
			b[len(b)/2] ^= 1
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return "", err
		}
	}
	return to, nil
}
