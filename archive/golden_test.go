package archive

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

var makeGolden = flag.Bool("make-golden", false, "write testdata/golden anew; only for a new format version")

const (
	goldenSigner    = "n8s1-z6c3xqlyt5xwnocdbqnlmhcb4y6ettaj"
	goldenDir       = "testdata/golden"
	goldenKey       = "0123456789abcdef0123456789abcdef"
	goldenPlace     = "credentials_entity.data"
	goldenRow       = "aBcD1234"
	goldenPlaintext = `{"user":"ann","password":"tr0ub4dor"}`
)

func goldenSalt() []byte { return bytes.Repeat([]byte{0x5a}, saltSize) }

func goldenFiles() []file {
	return []file{
		{"database/database.sqlite", bytes.Repeat([]byte("SQLite format 3\x00"), 5000)},
		{"database/postgres.dump", bytes.Repeat([]byte("INSERT INTO rows VALUES (1);\n"), 300_000)}, // streamed
		{"workflows/w1.json", []byte(`{"id":"w1","name":"one"}`)},
		{"files/nodes/" + strings.Repeat("long-folder-name/", 10) + "ä.js", []byte("module.exports = 1\n")},
		{"files/empty", nil},
	}
}

func goldenManifest() Manifest {
	return Manifest{
		Engine: "sqlite", N8NVersion: "2.41.1", LastMigration: "AddThing1700000000000", DigestSalt: goldenSalt(),
		State: StateDegraded, History: "30d",
		Findings: []Finding{{Code: "unopenable-secret", Place: goldenPlace, Detail: "1 of 2 <does> not open"}},
		Census:   []PlaceCount{{Place: goldenPlace, Values: 2, Opened: 1, Failed: 1, ByKey: map[string]int64{"instance": 1, "unknown": 1}}},
		Tables:   []TableCount{{"credentials_entity", 2}, {"workflow_entity", 1}},
	}
}

func goldenSecrets(t testing.TB) []Secret {
	d, err := NewDigester([]byte(goldenKey), goldenSalt())
	if err != nil {
		t.Fatal(err)
	}
	return []Secret{
		{Place: goldenPlace, Row: goldenRow, KeyID: "instance", Format: "cbc", Opens: true, Digest: d.Sum(goldenPlace, goldenRow, []byte(goldenPlaintext))},
		{Place: goldenPlace, Row: "eFgH5678", KeyID: "unknown", Format: "cbc", Problem: "wrong key"},
		{Place: "settings[features.oidc].clientSecret", Row: "features.oidc", Opens: false},
	}
}

// The golden archives, by their ID; each has an identity file of its name.
var goldenIDs = []ID{"20260801T020000Z-prod-golden", "20260801T020000Z-prod-quantm"}

// TestGolden reads archives that were written when the format was made. When it
// fails, it is not the golden files that are wrong.
func TestGolden(t *testing.T) {
	if *makeGolden {
		writeGolden(t)
	}
	for _, id := range goldenIDs {
		t.Run(string(id), func(t *testing.T) {
			archive := readFile(t, filepath.Join(goldenDir, id.ArchiveName()))
			signed, err := ParseSidecar(readFile(t, filepath.Join(goldenDir, id.SidecarName())))
			if err != nil {
				t.Fatal(err)
			}
			ids, err := age.ParseIdentities(bytes.NewReader(readFile(t, filepath.Join(goldenDir, string(id)+".identity"))))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(archive)
			if signed.SHA256 != hex.EncodeToString(sum[:]) || signed.Size != int64(len(archive)) || signed.ID != id {
				t.Errorf("sidecar %+v", signed.Sidecar)
			}
			if signed.Signer.Fingerprint() != goldenSigner {
				t.Errorf("signer %q", signed.Signer.Fingerprint())
			}
			files, r, err := read(t, archive, ids...)
			if err != nil {
				t.Fatal(err)
			}
			var plain int64
			for _, f := range files {
				plain += int64(len(f.body))
			}
			if signed.PlainSize != plain {
				t.Errorf("sidecar says %d bytes unpacked, they are %d", signed.PlainSize, plain)
			}
			joined := map[string][]byte{}
			for _, f := range files {
				name := f.name
				if i := strings.LastIndex(name, ".0"); strings.HasPrefix(name, "database/postgres.dump") {
					name = name[:i]
				}
				joined[name] = append(joined[name], f.body...)
			}
			for _, f := range goldenFiles() {
				if !bytes.Equal(joined[f.name], f.body) {
					t.Errorf("entry %q differs", f.name)
				}
			}
			if len(joined) != len(goldenFiles()) || len(files) != len(joined)+2 {
				t.Errorf("%d entries, %d files", len(files), len(joined))
			}
			want := goldenManifest()
			want.Format, want.ID, want.Instance, want.Created, want.KeyFingerprint, want.Tool = 1, id, "prod", testTime, "n8k1-abcdefghijklmnop", "n8keep 1.0.0"
			m := r.Manifest()
			if len(m.Entries) != len(files) {
				t.Errorf("%d entries listed", len(m.Entries))
			}
			m.Entries = nil
			if d := cmp.Diff(want, m); d != "" {
				t.Error(d)
			}
			var secrets []Secret
			for s, err := range r.Secrets() {
				if err != nil {
					t.Fatal(err)
				}
				secrets = append(secrets, s)
			}
			if d := cmp.Diff(goldenSecrets(t), secrets); d != "" {
				t.Error(d)
			}
		})
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeGolden(t *testing.T) {
	x25519 := newIdentity(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	for i, id := range goldenIDs {
		recipient, identity := age.Recipient(x25519.Recipient()), x25519.String()
		if i == 1 {
			recipient, identity = hybrid.Recipient(), hybrid.String()
		}
		var out bytes.Buffer
		h := testHeader()
		h.ID, h.Tool = id, "n8keep 1.0.0"
		w, err := NewWriter(&out, WriterConfig{Header: h, Recipients: []age.Recipient{recipient}, SpoolDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range goldenFiles() {
			if f.name == "database/postgres.dump" {
				s := w.Stream(f.name, 0o600)
				if _, err := io.Copy(s, bytes.NewReader(f.body)); err != nil || s.Close() != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := w.Add(Entry{Name: f.name, Size: int64(len(f.body)), Mode: 0o644}, bytes.NewReader(f.body)); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range goldenSecrets(t) {
			if err := w.AddSecret(s); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := w.Close(goldenManifest())
		if err != nil {
			t.Fatal(err)
		}
		kind, err := RecipientKind([]age.Recipient{recipient})
		if err != nil {
			t.Fatal(err)
		}
		sidecar, err := SignSidecar(Sidecar{
			ID: id, Instance: "prod", Created: testTime, State: StateDegraded, Engine: "sqlite", N8NVersion: "2.41.1",
			LastMigration: "AddThing1700000000000", KeyFingerprint: h.KeyFingerprint, RecipientKind: kind, History: "30d",
			Size: sum.Size, PlainSize: sum.PlainSize, SHA256: sum.SHA256, Entries: int64(sum.Entries), Secrets: sum.Secrets, SecretsOpened: sum.SecretsOpened,
			SecretsFailed: sum.SecretsFailed, Workflows: 1, Findings: 1,
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{
			id.ArchiveName(): out.Bytes(), id.SidecarName(): sidecar, string(id) + ".identity": []byte(identity + "\n"),
		} {
			if err := os.WriteFile(filepath.Join(goldenDir, name), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
