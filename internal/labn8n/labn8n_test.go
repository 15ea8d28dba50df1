package labn8n

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTOTP uses the SHA-1 rows of RFC 6238, appendix B, cut to six digits.
func TestTOTP(t *testing.T) {
	const secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ" // "12345678901234567890"
	for unix, want := range map[int64]string{59: "287082", 1111111109: "081804", 1234567890: "005924", 20000000000: "353130"} {
		if got, err := totp(secret, time.Unix(unix, 0)); err != nil || got != want {
			t.Errorf("at %d: %q, %v, want %q", unix, got, err, want)
		}
	}
	if _, err := totp("not base32!", time.Unix(0, 0)); err == nil {
		t.Error("a secret that is not base32 was taken")
	}
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("N8KEEP_CACHE", t.TempDir())
	_, err := Instance{Version: "9.9.9", Folder: t.TempDir()}.command(t.Context(), "start")
	if err == nil || !strings.Contains(err.Error(), `n8n 9.9.9 is not installed`) || !strings.Contains(err.Error(), `run "make e2e", or "scripts/install-n8n 9.9.9"`) {
		t.Errorf("error is %v", err)
	}
}

// fake puts a shell script in the place of Node, for what a real n8n does too rarely to test with it.
func fake(t *testing.T, script string) Instance {
	t.Helper()
	cache := t.TempDir()
	t.Setenv("N8KEEP_CACHE", cache)
	for file, content := range map[string]string{"node-24/bin/node": "#!/bin/sh\n" + script, "n8n/9.9.9/complete": ""} {
		path := filepath.Join(cache, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return Instance{Version: "9.9.9", Folder: t.TempDir()}
}

func TestEndsBeforeReady(t *testing.T) {
	s, err := start(fake(t, "echo Mismatching encryption keys; exit 1"), "start")
	if err != nil {
		t.Fatal(err)
	}
	err = s.await(t.Context(), readyLine, time.Minute)
	if err == nil || !strings.Contains(err.Error(), `n8n ended (exit status 1) before it printed "Editor is now accessible via"`) {
		t.Errorf("error is %v", err)
	}
	if !strings.Contains(s.Log(), "Mismatching encryption keys") {
		t.Errorf("log is %q", s.Log())
	}
}

func TestNeverReady(t *testing.T) {
	s, err := start(fake(t, "echo started; exec sleep 1000"), "start")
	if err != nil {
		t.Fatal(err)
	}
	s.Await(t, "started")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.await(ctx, readyLine, time.Minute); err == nil || !strings.Contains(err.Error(), `waiting for n8n to print`) {
		t.Errorf("error is %v", err)
	}
	s.Stop(t)
}

func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("N8N_ENCRYPTION_KEY", "of the caller")
	in := fake(t, "env")
	out := in.CLI(t)
	if strings.Contains(out, "of the caller") {
		t.Errorf("n8n got the caller's environment:\n%s", out)
	}
	for _, want := range []string{"N8N_DIAGNOSTICS_ENABLED=false", "N8N_VERSION_NOTIFICATIONS_ENABLED=false", "N8N_USER_FOLDER=" + in.Folder} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}
