package archive

import (
	"strings"
	"testing"
	"time"
)

func TestID(t *testing.T) {
	for _, instance := range []string{"prod", "a", "web-01.example.org", "20260801t020000z-x", strings.Repeat("x", 63)} {
		at := time.Date(2026, 8, 1, 4, 0, 0, 999, time.FixedZone("east", 7200))
		id := NewID(at, instance)
		parsed, err := ParseID(string(id))
		if err != nil || parsed != id {
			t.Errorf("%q: %v", id, err)
		}
		if id.Instance() != instance || !id.Time().Equal(testTime) || !strings.HasPrefix(string(id), "20260801T020000Z-"+instance+"-") {
			t.Errorf("%q: instance %q, time %v", id, id.Instance(), id.Time())
		}
		for name, want := range map[string]ObjectKind{id.ArchiveName(): ArchiveObject, id.SidecarName(): SidecarObject} {
			if got, kind, ok := IDFromName(name); got != id || kind != want || !ok {
				t.Errorf("%q: %q, %v, %v", name, got, kind, ok)
			}
		}
	}
	if a, b := NewID(testTime, "prod"), NewID(testTime, "prod"); a == b {
		t.Errorf("two equal ids %q", a)
	}
}

func TestBadIDs(t *testing.T) {
	for _, tc := range []struct{ id, want string }{
		{"", "want TIME-INSTANCE-RANDOM"},
		{"20260801T020000Z-prod", "want TIME-INSTANCE-RANDOM"},
		{"20260801T020000Z--k3x7qa", "want TIME-INSTANCE-RANDOM"},
		{"20260801T020000Z-prod-k3x7q1", "want TIME-INSTANCE-RANDOM"},
		{"20260801T020000Z-prod-K3X7QA", "want TIME-INSTANCE-RANDOM"},
		{"20260801T020000Z-prod-k3x7qa\n", "want TIME-INSTANCE-RANDOM"},
		{"20261301T020000Z-prod-k3x7qa", `"20261301T020000Z" is not a time`},
		{"20260230T020000Z-prod-k3x7qa", `"20260230T020000Z" is not a time`},
		{"20260801T020000Z-Prod-k3x7qa", "instance name"},
		{"20260801T020000Z-../x-k3x7qa", "instance name"},
		{"20260801T020000Z--x-k3x7qa", "instance name"},
		{"20260801T020000Z-" + strings.Repeat("x", 64) + "-k3x7qa", "instance name"},
	} {
		if _, err := ParseID(tc.id); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v", tc.id, err)
		}
		for _, suffix := range []string{archiveSuffix, sidecarSuffix} {
			if _, _, ok := IDFromName(tc.id + suffix); ok {
				t.Errorf("%q is taken for ours", tc.id+suffix)
			}
		}
	}
	for _, name := range []string{"20260801T020000Z-prod-k3x7qa", "20260801T020000Z-prod-k3x7qa.tar", "notes.json"} {
		if _, _, ok := IDFromName(name); ok {
			t.Errorf("%q is taken for ours", name)
		}
	}
	if ID("x").Instance() != "" || !ID("x").Time().IsZero() {
		t.Error("an invalid id has parts")
	}
	want := `instance name "A": want 1 to 63 of a-z, 0-9, dot and hyphen, beginning with a letter or digit`
	if err := CheckInstanceName("A"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}
