//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// place is where and how an n8n runs that gets another key.
type place struct {
	version  string
	postgres bool
	dataKeys bool // N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION
	keyFile  bool // the key is in a file that N8N_ENCRYPTION_KEY_FILE names, too
	queue    bool // a worker executes; postgres only
}

func (p place) name() string {
	parts := []string{p.version, "sqlite"}
	if p.postgres {
		parts[1] = "postgres"
	}
	for name, on := range map[string]bool{"data-keys": p.dataKeys, "key-file": p.keyFile, "queue": p.queue} {
		if on {
			parts = append(parts, name)
		}
	}
	slices.Sort(parts[2:])
	return strings.Join(parts, "-")
}

const (
	dataKeysOn  = "N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION=true"
	dataKeysOff = "N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION=false"
)

// hasRows says whether the release keeps signing secrets and data keys in its database: n8n >= 2.18.
func (p place) hasRows() bool {
	return !strings.HasPrefix(p.version, "1.") && !strings.HasPrefix(p.version, "2.0.")
}

// cliReads says whether the release's command line, the judge, opens values under data keys: n8n >= 2.39.
func (p place) cliReads() bool { return p.hasRows() && !strings.HasPrefix(p.version, "2.38.") }

// every says whether rotation, after a leak, too, and re-encryption run at all places, and not only in the few minutes' form:
// with N8KEEP_SOAK=1 or N8KEEP_E2E_ROTATE=all.
func every() bool { return os.Getenv("N8KEEP_SOAK") != "" || os.Getenv("N8KEEP_E2E_ROTATE") == "all" }

// places are those of the default run, SQLite with the data keys off, or all of them.
func places() []place {
	var all []place
	for _, v := range versions() {
		p := place{version: v}
		all = append(all, p)
		if !every() {
			continue
		}
		all = append(all, place{version: v, postgres: true, keyFile: true})
		if p.cliReads() {
			all = append(all, place{version: v, dataKeys: true, keyFile: true}, place{version: v, postgres: true, dataKeys: true, keyFile: true},
				place{version: v, postgres: true, queue: true}, place{version: v, postgres: true, queue: true, dataKeys: true})
		}
	}
	return all
}

// begin starts an n8n at the place and fills it.
func begin(t *testing.T, p place) (*helm, *life) {
	t.Helper()
	in := labn8n.NewInstance(p.version, t.TempDir())
	in.Port = labn8n.FreePort(t)
	in.Env = slices.Clone(in.Env)
	var db database
	if p.postgres {
		db = database{pgtest.New(t), "public"}
		in.Env = append(in.Env, db.env(t)...)
	}
	if p.dataKeys {
		in.Env = append(in.Env, dataKeysOn)
		in.CLIEnv = []string{dataKeysOff} // what is imported is in the old format
	}
	if p.keyFile {
		file := filepath.Join(in.Folder, "key-of-n8n")
		writeKey(t, file, "key-file-of-"+p.version+"-8SgqBEd3wq")
		in.Env = append(in.Env, "N8N_ENCRYPTION_KEY_FILE="+file)
	}
	if p.queue {
		in.Env = append(in.Env, labn8n.Redis(t)...)
	}
	main := labn8n.Start(t, in)
	var worker *labn8n.Server
	if p.queue {
		worker = labn8n.StartWorker(t, in)
	}
	l := born(t, main, 5)
	l.place, l.db = p, db
	return takeHelm(t, main, worker), l
}

func writeKey(t *testing.T, file, key string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRotate replaces the key of a living n8n, there and back and there again.
func TestRotate(t *testing.T) {
	for _, p := range places() {
		t.Run(p.name(), func(t *testing.T) { rotateStory(t, p) })
	}
}

// rotator is a keeper that rotates.
type rotator struct {
	*keeper
	h      *helm
	l      *life
	source []string // flags that name the instance
	newKey string   // path
	config []byte   // n8n's config before
}

func newRotator(t *testing.T, h *helm, l *life) *rotator {
	t.Helper()
	r := &rotator{keeper: newKeeper(t, l.in, l.facts), h: h, l: l}
	r.newKey = filepath.Join(r.home, "new-key")
	r.run(t, 0, "key", "generate", "--out", r.newKey)
	r.secrets = append(r.secrets, r.read(t, r.newKey))
	r.source = []string{"--n8n-dir", l.in.Dir()}
	if l.place.postgres {
		u, password := l.db.parts(t)
		r.secrets = append(r.secrets, password)
		pass := fmt.Sprintf("%s:%s:*:%s:%s\n", u.Hostname(), u.Port(), u.User.Username(), password)
		if err := os.WriteFile(filepath.Join(r.home, ".pgpass"), []byte(pass), 0o600); err != nil {
			t.Fatal(err)
		}
		r.source = append(r.source, "--database", l.db.address(t))
	}
	for _, e := range l.in.Env {
		if strings.HasPrefix(e, "N8N_ENC") || strings.HasPrefix(e, "N8N_ENV") {
			r.env = append(r.env, e)
		}
	}
	r.config = []byte(r.read(t, filepath.Join(l.in.Dir(), "config")))
	return r
}

func (r *rotator) read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// instance is "rotate instance" with everything that this instance needs.
func (r *rotator) instance(t *testing.T, code int, flags ...string) []byte {
	t.Helper()
	return r.run(t, code, slices.Concat([]string{"rotate", "instance"}, r.source, []string{"--key-file", r.keyFile, "--new-key-file", r.newKey,
		"--recipient", r.recipient, "--identity", r.identity, "--target", r.target, "--json"}, flags)...)
}

func (r *rotator) hooks(t *testing.T) []string {
	return []string{"--stop-command", r.h.command(t, "stop"), "--start-command", r.h.command(t, "start"), "--health-url", "http://127.0.0.1:" + r.l.in.Port + "/healthz"}
}

func (r *rotator) rotation(t *testing.T, doc []byte, state string) api.Rotation {
	t.Helper()
	var done api.Rotation
	decode(t, doc, &done)
	if done.ID == "" || done.State != state || done.Error != nil || done.Do == nil {
		t.Errorf("a rotation that should be %s: %+v", state, done)
	}
	return done
}

// keyIs checks every place of the key that n8n reads.
func (r *rotator) keyIs(t *testing.T, key string) {
	t.Helper()
	if got := r.l.in.Key(t); got != key {
		t.Error("n8n's config has another key")
	}
	if got := strings.Replace(r.read(t, filepath.Join(r.l.in.Dir(), "config")), key, r.key, 1); got != string(r.config) {
		t.Errorf("n8n's config differs in more than the key: %d bytes, before %d", len(got), len(r.config))
	}
	if r.l.place.keyFile {
		if got := r.read(t, filepath.Join(r.l.in.Folder, "key-of-n8n")); got != key {
			t.Error("the file that N8N_ENCRYPTION_KEY_FILE names has another key")
		}
	}
}

// pinned are the derived secrets that a release without rows for them must be told, so that it keeps them.
func pinned(t *testing.T, key string) map[string]string {
	t.Helper()
	k, err := n8ncrypt.NewInstanceKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"N8N_USER_MANAGEMENT_JWT_SECRET": k.SigningJWT(),
		"N8N_HMAC_SIGNATURE_SECRET":      k.SigningHMAC(),
		"N8N_BINARY_DATA_SIGNING_SECRET": k.SigningBinaryData(),
	}
}

func rotateStory(t *testing.T, p place) {
	step := stepsOf(t)
	h, l := begin(t, p)
	r := newRotator(t, h, l)
	oldKey, newKey := r.key, r.read(t, r.newKey)

	t.Run("plan", func(t *testing.T) {
		var plan api.RotationPlan
		dry := func() { decode(t, r.instance(t, 0, append(r.hooks(t), "--dry-run")...), &plan) }
		if p.postgres {
			dry()
		} else {
			changesNothing(t, l.in.Dir(), dry)
		}
		if !plan.DryRun || plan.Change == 0 || plan.Unopened != 0 || len(plan.Refusals) != 0 || plan.N8NVersion == "" {
			t.Errorf("plan: %+v", plan)
		}
		if n := len(plan.KeyPlaces); n == 0 || p.keyFile && n < 2 || slices.ContainsFunc(plan.KeyPlaces, func(k api.KeyPlace) bool { return k.By != "n8keep" }) {
			t.Errorf("the key is set in %+v", plan.KeyPlaces)
		}
		r.plannedPlaces(t, plan)
		r.plannedSecrets(t, plan, oldKey)
	})
	step("refused while n8n runs", func(t *testing.T) {
		var not api.RotationPlan
		decode(t, r.instance(t, 11, "--yes"), &not)
		if not.Error == nil || not.Error.Kind != "busy" {
			t.Errorf("the refusal: %+v", not.Error)
		}
		r.keyIs(t, oldKey)
		var all api.Rotations
		decode(t, r.run(t, 0, "rotate", "status", "--json"), &all)
		if len(all.Rotations) != 0 || len(r.list(t)) != 0 {
			t.Errorf("the refusal left %+v, archives %+v", all.Rotations, r.list(t))
		}
		main, _ := h.servers(t)
		if _, err := main.Client(t, "").CallWebhook(t.Context(), l.facts); err != nil {
			t.Errorf("n8n after the refusal: %v", err)
		}
	})

	var first api.Rotation
	step("rotate", func(t *testing.T) {
		first = r.rotation(t, r.instance(t, 0, append(r.hooks(t), "--yes")...), "verified")
		if first.Backup == nil || first.Values == 0 || first.Downtime <= 0 || first.Quarantine != 0 {
			t.Errorf("rotation with a gap: %+v", first)
		}
		t.Logf("%d values, n8n was down for %.1f s", first.Values, first.Downtime)
		r.keyIs(t, newKey)
		l.on(t, h)
	})
	step("everything else waits for the end of the rotation", func(t *testing.T) {
		r.run(t, 11, slices.Concat([]string{"rotate", "instance"}, r.source, []string{"--key-file", r.newKey, "--new-key-file", r.wrongKey, "--recipient", r.recipient,
			"--identity", r.identity, "--target", r.target, "--json", "--yes"}, r.hooks(t))...)
		if p.hasRows() {
			r.run(t, 11, slices.Concat([]string{"data-key", "rotate"}, r.source, []string{"--json", "--yes"})...)
			r.run(t, 11, slices.Concat([]string{"reencrypt"}, r.source, []string{"--to", "active", "--json", "--yes"})...)
		}
	})
	step("rollback, after n8n has written with the new key", func(t *testing.T) {
		done := r.rotation(t, r.run(t, 0, "rotate", "rollback", first.ID, "--yes", "--json"), "rolled-back")
		if done.Rollback == nil || done.Rollback.Restored == 0 || done.Rollback.Rewritten == 0 || done.Rollback.Gone != 0 {
			t.Errorf("rollback: %+v", done.Rollback)
		}
		r.keyIs(t, oldKey)
		l.on(t, h)
		r.run(t, 0, slices.Concat([]string{"census"}, r.source, []string{"--key-file", r.keyFile, "--json"})...)
	})
	var second api.Rotation
	step("rotate again, n8n is stopped by the user", func(t *testing.T) {
		h.byUser(t, "stop")
		second = r.rotation(t, r.instance(t, 0, "--yes"), "verified")
		r.keyIs(t, newKey)
		h.byUser(t, "start")
		l.on(t, h)
	})
	step("finalise", func(t *testing.T) {
		done := r.rotation(t, r.run(t, 0, "rotate", "finalise", second.ID, "--identity", r.identity, "--yes", "--json"), "finalised")
		if done.Fresh == nil || !slices.ContainsFunc(done.NeedOldKey, func(k api.KeptArchive) bool { return k.ID == first.Backup.ID }) {
			t.Errorf("finalised with a gap: %+v", done)
		}
		r.noWayBack(t, second.ID)
		r.run(t, 0, slices.Concat([]string{"census"}, r.source, []string{"--json"})...)
		main, _ := h.servers(t)
		if _, err := main.Client(t, "").CallWebhook(t.Context(), l.facts); err != nil {
			t.Errorf("n8n afterwards: %v", err)
		}
	})
	h.byUser(t, "stop")
	step("an archive of the old key is restored with it", func(t *testing.T) {
		r.restored(t, first.Backup.ID, first.Backup.Target, r.keyFile, oldKey)
	})
}

// plannedPlaces looks for the secrets that were seeded, so that what follows proves something about them.
func (r *rotator) plannedPlaces(t *testing.T, plan api.RotationPlan) {
	t.Helper()
	change := map[string]int64{}
	for _, p := range plan.Places {
		change[p.Place] = p.Change
	}
	want := map[string]int64{}
	if r.l.place.dataKeys { // what n8n itself wrote is under a data key, which stays
		for _, c := range r.facts.Credentials {
			if strings.HasPrefix(c.ID, "lab") {
				want["credentials_entity.data"]++
			}
		}
	} else {
		want["user.mfaSecret"], want["user.mfaRecoveryCodes"] = 1, int64(len(r.facts.RecoveryCodes))
		want["credentials_entity.data"], want["settings[credentialsOverwrite]"] = int64(len(r.facts.Credentials)), 1
		if r.l.place.hasRows() {
			want["execution_data.data[credentials]"] = int64(len(r.l.live.Approvals))
		}
	}
	for place, n := range want {
		if change[place] != n {
			t.Errorf("the plan changes %d values of %s, want %d; all: %v", change[place], place, n, change)
		}
	}
}

// plannedSecrets checks what the plan says of derived secrets and, where variables are needed, sets them for the next
// starts of n8n.
func (r *rotator) plannedSecrets(t *testing.T, plan api.RotationPlan, key string) {
	t.Helper()
	how := map[string]string{}
	for _, d := range plan.Derived {
		how[d.Secret] = d.How
		if d.How != "environment" {
			continue
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-c", d.Obtain).Output()
		says := strings.TrimSuffix(string(out), "\n") // as $(...) does
		if value := pinned(t, key)[d.Variable]; err != nil || value == "" || says != value {
			t.Errorf("%q prints %q (%v) for %s, want %q", d.Obtain, out, err, d.Variable, value)
			continue
		}
		r.h.set(d.Variable + "=" + says)
	}
	t.Logf("derived secrets: %v", how)
	want := "environment"
	if r.l.place.hasRows() {
		want = "rows"
	}
	if n := len(plan.Derived); n < 4 || !slices.ContainsFunc(plan.Derived, func(d api.Derived) bool { return d.How == want }) {
		t.Errorf("derived secrets: %+v", plan.Derived)
	}
}

// noWayBack checks that nothing is left of a finalised rotation that could tell what a value was.
func (r *rotator) noWayBack(t *testing.T, id string) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(filepath.Join(r.home, "state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, id) && !d.IsDir() {
			found++
			if strings.HasSuffix(path, ".age") {
				t.Errorf("%s is still there", path)
			}
		}
		return err
	})
	if err != nil || found == 0 {
		t.Errorf("journal of %s: %d files, %v", id, found, err)
	}
}

// restored restores an archive for a new instance; n8n's own export is the judge.
func (r *rotator) restored(t *testing.T, id, target, keyFile, key string) {
	t.Helper()
	again := labn8n.NewInstance(r.version, t.TempDir())
	to := again.Dir()
	var flags []string
	if r.l.place.postgres {
		u, _ := r.l.db.parts(t)
		fresh := r.l.db.beside(t, "restored_of_"+strings.TrimPrefix(u.Path, "/"))
		again.Env = slices.Concat(again.Env, fresh.env(t))
		to, flags = fresh.address(t), []string{"--files-to", again.Dir()}
		t.Cleanup(func() {
			r.l.db.exec(t, `DROP DATABASE "`+strings.TrimPrefix(mustURL(t, fresh.dsn).Path, "/")+`" WITH (FORCE)`)
		})
	}
	r.run(t, 0, append([]string{"restore", id, "--target", target, "--identity", r.identity, "--key-file", keyFile, "--to", to, "--json"}, flags...)...)
	if got := again.Key(t); got != key {
		t.Error("the restored config has another key")
	}
	got := again.ExportCredentials(t)
	for _, c := range r.facts.Credentials[:16] {
		if diff := cmp.Diff(r.l.credentials[c.ID]["data"], got[c.ID]["data"]); diff != "" && c.ID != r.l.live.OAuth.ID {
			t.Errorf("credential %s differs (-before +restored):\n%s", c.ID, diff)
		}
	}
	if _, err := os.Stat(again.Dir()); errors.Is(err, fs.ErrNotExist) {
		t.Error("nothing was restored")
	}
}
