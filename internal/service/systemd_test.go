package service

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

func systemd(t *testing.T, w world, units ...string) (*Systemd, string) {
	t.Helper()
	if len(units) == 0 {
		units = []string{"n8n.service"}
	}
	dir := with(t, w)
	return &Systemd{Units: units, Program: filepath.Join(dir, "systemctl")}, dir
}

func one(u unit) world {
	if u.States == nil {
		u.States = []string{"active/running//a"}
	}
	return world{Units: map[string]*unit{"n8n.service": &u}}
}

func TestSystemd(t *testing.T) {
	t.Parallel()
	// It lingers twice before it is stopped, and needs a while to come back.
	o, dir := systemd(t, one(unit{
		OnStop:  []string{"deactivating/stop-sigterm//a", "deactivating/stop-sigterm//a", "inactive/dead"},
		OnStart: []string{"activating/start-pre//b", "active/running//b"},
	}))
	s := open(t, o, quick())
	for i, step := range []func() error{
		func() error { return s.Stop(t.Context()) },
		func() error { return s.Stop(t.Context()) }, // again
		func() error { return s.Start(t.Context()) },
		func() error { return s.Healthy(t.Context()) },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	got := calls(t, dir)
	show := "systemctl show --property=P -- n8n.service"
	want := []string{
		show, "systemctl --no-ask-password stop -- n8n.service", show, show, show, // until it is inactive
		"systemctl --no-ask-password stop -- n8n.service", show, show, show,
		"systemctl --no-ask-password start -- n8n.service", show, show,
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Error(diff)
	}
	if got := s.String(); got != `systemd unit "n8n.service"` {
		t.Error(got)
	}
	if diff := cmp.Diff([]string{"whether n8n itself says that it runs: give its address with --health-url"}, s.Unchecked(t.Context())); diff != "" {
		t.Error(diff)
	}
}

func TestSystemdWithoutSecrets(t *testing.T) {
	t.Setenv("N8N_ENCRYPTION_KEY", "the-old-key-of-n8n-0123")
	t.Setenv("PGPASSWORD", "pg-password")
	o, dir := systemd(t, one(unit{}))
	if err := open(t, o, quick()).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, call := range calls(t, dir) {
		if strings.Contains(call, "$") {
			t.Errorf("a secret variable was there: %s", call)
		}
	}
}

func TestSystemdUserUnit(t *testing.T) {
	t.Parallel()
	o, dir := systemd(t, world{Units: map[string]*unit{
		"n8n.service":        {User: true, States: []string{"active/running//a"}},
		"n8n-worker.service": {User: true, States: []string{"active/running//b"}},
	}}, "n8n", "n8n-worker.service")
	s := open(t, o, quick())
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := calls(t, dir)
	if want := "systemctl --user --no-ask-password stop -- n8n n8n-worker.service"; !slices.Contains(got, want) {
		t.Errorf("%q not in %q", want, got)
	}
	if got := s.String(); got != `user's systemd units "n8n", "n8n-worker.service"` {
		t.Error(got)
	}
	if got := o.Logs(); got != "journalctl -n 50 --user -u n8n -u n8n-worker.service" {
		t.Error(got)
	}
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	unit, _ := systemd(t, one(unit{Fragment: "/etc/systemd/system/n8n.service", DropIns: "/etc/systemd/system/n8n.service.d/a.conf /run/x.conf"}))
	dir := t.TempDir()
	for _, name := range []string{"docker-compose.yml", "docker-compose.override.yml"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		o    Orchestrator
		want Deployment
	}{
		{unit, Deployment{Units: []string{"/etc/systemd/system/n8n.service", "/etc/systemd/system/n8n.service.d/a.conf", "/run/x.conf"}}},
		{&Compose{File: filepath.Join(dir, "docker-compose.yml")}, Deployment{Compose: []string{filepath.Join(dir, "docker-compose.yml"), filepath.Join(dir, "docker-compose.override.yml")}}},
		{&Compose{File: "/srv/n8n.yaml"}, Deployment{Compose: []string{"/srv/n8n.yaml"}}},
		{&Command{StartLine: "true"}, Deployment{}},
	} {
		got, err := open(t, tt.o, Config{}).Deployment(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSystemdRefusals(t *testing.T) {
	t.Parallel()
	stop := func(s *Service, t *testing.T) error { return s.Stop(t.Context()) }
	start := func(s *Service, t *testing.T) error { return s.Start(t.Context()) }
	healthy := func(s *Service, t *testing.T) error { return s.Healthy(t.Context()) }
	for _, tt := range []struct {
		name  string
		world world
		units []string
		cfg   Config
		do    func(*Service, *testing.T) error
		kind  problem.Kind
		parts []string
	}{
		{"no such unit", world{}, nil, quick(), stop, problem.NotFound, []string{`systemd does not know a unit "n8n.service"`, "systemctl list-units"}},
		{"not a name", world{}, []string{"-n8n"}, quick(), stop, problem.Usage, []string{`"-n8n" is not the name of a systemd unit`}},
		{"no name", world{}, []string{""}, quick(), stop, problem.Usage, []string{`"" is not the name of a systemd unit`}},
		{"masked", one(unit{Load: "masked"}), nil, quick(), stop, problem.Usage, []string{`systemd cannot use unit "n8n.service": it is masked`}},
		{"denied", world{Bus: "denied", Units: one(unit{}).Units}, nil, quick(), stop, problem.Usage, []string{"was not allowed: Failed to stop n8n.service: Interactive authentication required", "run n8keep as root"}},
		{"no systemd", world{Bus: "absent"}, nil, quick(), stop, problem.Usage, []string{"systemd cannot be reached: System has not been booted with systemd", "--stop-command"}},
		{"stop fails", one(unit{FailStop: "Job for n8n.service canceled.", ExitStop: 1}), nil, quick(), stop, problem.Unexpected,
			[]string{`systemctl stop of systemd unit "n8n.service" ended with exit status 1: Job for n8n.service canceled.`, "journalctl -n 50 -u n8n.service"}},
		{"stays", one(unit{OnStop: []string{"deactivating/stop-sigterm//a"}}), nil, short(), stop, problem.Busy,
			[]string{`stopping n8n by systemd unit "n8n.service": it still runs after 300ms: unit "n8n.service" is deactivating (stop-sigterm)`}},
		{"start fails", one(unit{FailStart: "Job for n8n.service failed because the control process exited with error code.", ExitBoot: 1}), nil, quick(), start, problem.Unexpected,
			[]string{"starting n8n: systemctl start of", "failed because the control process"}},
		{"ended", one(unit{States: []string{"active/running//a", "failed/failed/exit-code/a"}}), nil, quick(), healthy, problem.Unreachable,
			[]string{`n8n has ended again: unit "n8n.service" is failed, result exit-code`, "Mismatching encryption keys", "journalctl"}},
		{"again and again", one(unit{States: []string{"activating/auto-restart/exit-code/a"}}), nil, short(), healthy, problem.Unreachable,
			[]string{`n8n is not healthy after 300ms: unit "n8n.service" is activating (auto-restart)`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, _ := systemd(t, tt.world, tt.units...)
			fails(t, tt.do(open(t, o, tt.cfg), t), tt.kind, tt.parts...)
		})
	}
}

func TestSystemdRestartsAreSeen(t *testing.T) {
	t.Parallel()
	// Each look finds it running, but never the same process for long.
	states := []string{"active/running//a"}
	for _, run := range "bcdefghijklmnop" {
		states = append(states, "active/running//"+string(run))
	}
	o, _ := systemd(t, one(unit{States: append(states, "active/running//z")}))
	cfg := quick()
	cfg.Settle = 20 * cfg.Poll
	if err := open(t, o, cfg).Healthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	show, err := o.show(t.Context(), "n8n.service")
	if err != nil {
		t.Fatal(err)
	}
	if show["InvocationID"] != "z" {
		t.Errorf("called healthy in run %q", show["InvocationID"])
	}
}

func TestSystemctlMissing(t *testing.T) {
	t.Parallel()
	o := &Systemd{Units: []string{"n8n.service"}, Program: "systemctl-that-is-not-there"}
	fails(t, o.Stop(t.Context()), problem.Usage, "systemctl was not found", "--stop-command")
}
