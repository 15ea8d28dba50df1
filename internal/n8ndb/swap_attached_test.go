package n8ndb

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestAttachedSQLite: another process that has the file open is seen, and only as long
// as it has; our own connections do not count.
func TestAttachedSQLite(t *testing.T) {
	ctx := context.Background()
	_, path := snapCopyFixture(t, "2.41.1-sqlite")
	s, err := SwapSQLite(ctx, SwapSQLiteConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Version(ctx); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "600")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	other.Stdin = f
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Process.Kill()
	f.Close()
	a, err := s.Attached(ctx, HoldConfig{})
	if err != nil || len(a.By) != 1 || !strings.Contains(a.By[0], "is in use by process") || !strings.Contains(a.By[0], "(sleep)") {
		t.Errorf("%v: %+v", err, a)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	other.Wait()
	if a, err = s.Attached(ctx, HoldConfig{}); err != nil || len(a.By) != 0 {
		t.Errorf("%v: %+v", err, a)
	}
	if _, err := s.Version(ctx); err != nil {
		t.Error(err)
	}
}
