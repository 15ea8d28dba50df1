// Package labn8n runs real n8n releases for tests: starts and stops them on loopback, drives them through their own REST
// interfaces and command line, and fills them with every kind of secret that n8n encrypts: those in its tables (Seed), and
// those that people and services keep of it, as sessions, signed links and OAuth tokens (Enliven).
//
// A release is installed beforehand by scripts/install-n8n into $N8KEEP_CACHE (default ~/.cache/n8keep); a missing one
// fails the test and names the command, nothing is skipped and nothing downloaded here. A started n8n gets a minimal
// environment without anything of the caller's: telemetry, version checks, templates and community packages are off. The
// kernel kills it when the test binary dies.
//
// Requests and their quirks were seen on 1.123.81, 2.0.3, 2.38.7 and 2.41.1. This package is a test kit: everything in it
// takes a testing.TB and ends the test when n8n does not do as asked.
package labn8n

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Instance is an n8n release with a folder to run on; n8n keeps its files in Folder/.n8n. It may be running or not.
type Instance struct {
	// Version is an installed release, "2.41.1".
	Version string
	// Folder becomes N8N_USER_FOLDER and HOME. It must exist.
	Folder string
	// Env is added to the environment, "NAME=value". Without N8N_ENCRYPTION_KEY n8n makes a key and keeps it in config.
	Env []string
	// CLIEnv is added to that of commands only, so that they may write another format than the server does.
	CLIEnv []string
	// Port is where n8n listens; empty for a free one at every start. Addresses that an instance gave away, and cookies,
	// are of use after a restart only where it is the same.
	Port string
}

// Dir is the folder that holds config and database.sqlite.
func (in Instance) Dir() string { return filepath.Join(in.Folder, ".n8n") }

// Key is the instance key in n8n's config file.
func (in Instance) Key(t testing.TB) string {
	t.Helper()
	var config struct {
		EncryptionKey string `json:"encryptionKey"`
	}
	readJSON(t, filepath.Join(in.Dir(), "config"), &config)
	if config.EncryptionKey == "" {
		t.Fatalf("labn8n: no encryptionKey in %s/config", in.Dir())
	}
	return config.EncryptionKey
}

// CLI runs an n8n command ("export:workflow", "--all", ...) and returns what it printed; a failing command ends the test.
// n8n may be running at the same time.
func (in Instance) CLI(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	in.Env = slices.Concat(in.Env, in.CLIEnv)
	cmd, err := in.command(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("labn8n: n8n %s %s: %v\n%s", in.Version, strings.Join(args, " "), err, tail(string(out)))
	}
	return string(out)
}

// cache is where scripts/install-n8n puts things.
func cache() (string, error) {
	if dir := os.Getenv("N8KEEP_CACHE"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("labn8n: finding the cache: %w", err)
	}
	return filepath.Join(home, ".cache", "n8keep"), nil
}

func (in Instance) command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	root, err := cache()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "n8n", in.Version)
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		return nil, fmt.Errorf(`labn8n: n8n %s is not installed in %s: run "make e2e", or "scripts/install-n8n %s"`, in.Version, dir, in.Version)
	}
	node := filepath.Join(root, "node-24", "bin")
	cmd := exec.CommandContext(ctx, filepath.Join(node, "node"), append([]string{filepath.Join(dir, "node_modules", "n8n", "bin", "n8n")}, args...)...)
	cmd.Dir = in.Folder
	cmd.Env = append([]string{
		"PATH=" + node + ":/usr/bin:/bin",
		"HOME=" + in.Folder,
		"TZ=UTC",
		"GENERIC_TIMEZONE=UTC",
		"LC_ALL=C.UTF-8",
		"NO_COLOR=1",
		"N8N_USER_FOLDER=" + in.Folder,
		"N8N_DIAGNOSTICS_ENABLED=false",
		"N8N_VERSION_NOTIFICATIONS_ENABLED=false",
		"N8N_TEMPLATES_ENABLED=false",
		"N8N_PERSONALIZATION_ENABLED=false",
		"N8N_HIRING_BANNER_ENABLED=false",
		"N8N_COMMUNITY_PACKAGES_ENABLED=false",
		"N8N_LICENSE_AUTO_RENEW_ENABLED=false",
		"N8N_SECURE_COOKIE=false",
		"EXTERNAL_FRONTEND_HOOKS_URLS=",
	}, in.Env...)
	return cmd, nil
}

// tail is the end of a log, enough to see what went wrong.
func tail(log string) string {
	const most = 4000
	if len(log) > most {
		return "[...]" + log[len(log)-most:]
	}
	return log
}
