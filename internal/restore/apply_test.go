package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRestore(t *testing.T) {
	want := rows(t, newFixture+"/database.sqlite")
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			dir := s.build(t)
			old := rows(t, filepath.Join(dir, "database.sqlite"))
			cfg := config(t, dir)
			cfg.Overwrite = s.make != nil
			report, err := restoreWith(cfg)
			if err != nil {
				t.Fatal(err)
			}
			checkRestored(t, dir, want)
			if report.SecretsOpened != 7 || report.Files != 3 || report.DatabaseBytes == 0 || report.N8NVersion != "2.0.3" {
				t.Errorf("report: %+v", report)
			}
			if (old != "") != (report.SafetyCopy != "") {
				t.Fatalf("safety copy %q", report.SafetyCopy)
			}
			if old != "" && rows(t, report.SafetyCopy) != old {
				t.Error("the safety copy has other rows than the database had")
			}
			if s.name == "other files" {
				if report.FilesReplaced != 1 || report.Config != ConfigKept {
					t.Errorf("report: %+v", report)
				}
				b, err := os.ReadFile(filepath.Join(report.SafetyFolder, "nodes/package.json"))
				if err != nil || string(b) != `{"old":true}` {
					t.Errorf("replaced file was kept as %q, %v", b, err)
				}
				if _, err := os.Stat(filepath.Join(dir, "binaryData/1")); err != nil {
					t.Error(err)
				}
			} else if report.Config != ConfigWritten || report.SafetyFolder != "" && s.name != "log without database" {
				t.Errorf("report: %+v", report)
			}
		})
	}
}

// checkRestored looks for everything that the archive held.
func checkRestored(t *testing.T, dir, want string) {
	t.Helper()
	noStaging(t, dir)
	if got := rows(t, filepath.Join(dir, "database.sqlite")); got != want {
		t.Error("the restored database has other rows than the archive's")
	}
	for _, suffix := range journalSuffixes() {
		if _, err := os.Stat(filepath.Join(dir, "database.sqlite"+suffix)); !os.IsNotExist(err) {
			t.Errorf("there is a %s file beside the restored database", suffix)
		}
	}
	for name, text := range archiveFiles() {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil || string(b) != text {
			t.Errorf("%s is %q, %v", name, b, err)
			continue
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o640 || !info.ModTime().Equal(fileTime) {
			t.Errorf("%s has mode %v and time %v", name, info.Mode(), info.ModTime())
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "config"))
	if diff := cmp.Diff("{\n\t\"encryptionKey\": \""+testKey+"\"\n}", string(b)); diff != "" || err != nil {
		t.Errorf("config: %v %s", err, diff)
	}
	if info, err := os.Stat(filepath.Join(dir, "database.sqlite")); err != nil || info.Mode() != 0o600 {
		t.Errorf("database: %v, %v", info.Mode(), err)
	}
}

func TestRestoreTwiceKeepsBothSafetyCopies(t *testing.T) {
	dir := scenarios()[1].build(t)
	old := rows(t, filepath.Join(dir, "database.sqlite"))
	for range 3 {
		cfg := config(t, dir)
		cfg.Overwrite = true
		if _, err := restoreWith(cfg); err != nil {
			t.Fatal(err)
		}
	}
	base := filepath.Join(dir, "database.sqlite.before-"+string(testID))
	if rows(t, base) != old {
		t.Error("the first safety copy is not the first database")
	}
	for _, suffix := range []string{"-2", "-3"} {
		if rows(t, base+suffix) == "" {
			t.Errorf("no safety copy %s", suffix)
		}
	}
}

func TestPlanChangesNothingAndTellsAll(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			dir := s.build(t)
			before := tree(t, dir)
			cfg := config(t, dir)
			cfg.Overwrite, cfg.DryRun = true, true
			p, err := NewPlan(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Error(diff)
			}
			var words []string
			for _, step := range p.Steps {
				words = append(words, step.Do)
			}
			text := strings.Join(words, "\n")
			wants := []string{"unpack archive " + string(testID), "files in place", "rename the restored database", "prove it again"}
			if s.make == nil {
				wants = append(wants, "make the folder")
			}
			if p.SafetyCopy != "" {
				wants = append(wants, "safety copy", "write-ahead log")
			}
			for _, want := range wants {
				if !strings.Contains(text, want) {
					t.Errorf("no step says %q:\n%s", want, text)
				}
			}
			if _, err := p.Apply(t.Context()); err == nil {
				t.Error("a dry plan was applied")
			}
		})
	}
}

func TestNoConfigSaysWhichVariable(t *testing.T) {
	dir := scenarios()[0].build(t)
	cfg := config(t, dir)
	cfg.NoConfig = true
	report, err := restoreWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if report.Config != ConfigLeftOut || !strings.Contains(report.KeyLine, "N8N_ENCRYPTION_KEY") || strings.Contains(report.KeyLine, testKey) {
		t.Errorf("report: %+v", report)
	}
	if _, err := os.Stat(filepath.Join(dir, "config")); !os.IsNotExist(err) {
		t.Error("a config was written")
	}
}

func TestDamagedOldDatabaseIsKeptWithItsLog(t *testing.T) {
	dir := scenarios()[2].build(t)
	wal, err := os.ReadFile(filepath.Join(dir, "database.sqlite-wal"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "database.sqlite"), "garbage")
	cfg := config(t, dir)
	cfg.Overwrite = true
	report, err := restoreWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	checkRestored(t, dir, rows(t, newFixture+"/database.sqlite"))
	for suffix, want := range map[string]string{"": "garbage", "-wal": string(wal)} {
		b, err := os.ReadFile(report.SafetyCopy + suffix)
		if err != nil || string(b) != want {
			t.Errorf("safety copy%s: %v", suffix, err)
		}
	}
	if !strings.Contains(strings.Join(report.Warnings, "\n"), "cannot be opened") {
		t.Errorf("warnings: %q", report.Warnings)
	}
}

func TestOwnerFollowsTheFolder(t *testing.T) {
	dir := scenarios()[1].build(t)
	want := Owner{os.Geteuid(), os.Getegid()}
	if os.Geteuid() == 0 {
		want = Owner{1000, 1001}
		if err := os.Chown(dir, want.UID, want.GID); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config(t, dir)
	cfg.Overwrite = true
	if _, err := restoreWith(cfg); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"database.sqlite", "config", "nodes", "nodes/package.json", "custom/own.js"} {
		if got := ownerOf(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s belongs to %v, want %v", name, got, want)
		}
	}
}
