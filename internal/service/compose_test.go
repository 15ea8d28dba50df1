package service

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

func compose(t *testing.T, w world, services ...string) (*Compose, string) {
	t.Helper()
	dir := with(t, w)
	file := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(file, []byte("services: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Compose{File: file, Services: services, Docker: filepath.Join(dir, "docker"), Standalone: filepath.Join(dir, "docker-compose")}, dir
}

func running(name string) *composeService {
	return &composeService{Containers: []*container{{ID: name + "1", Name: "demo-" + name + "-1", States: []string{"running/0/t0/0"}}}}
}

func stack() world {
	return world{Services: map[string]*composeService{"n8n": running("n8n"), "n8n-worker": running("n8n-worker"), "postgres": running("postgres")}}
}

func TestCompose(t *testing.T) {
	t.Parallel()
	w := stack()
	w.Services["n8n"].OnStop = []*container{{ID: "n8n1", Name: "demo-n8n-1", States: []string{"running/0/t0/0", "exited/0/t0/0"}}}
	w.Services["n8n"].OnStart = []*container{{ID: "n8n1", Name: "demo-n8n-1", States: []string{"running/0/t1/0/starting", "running/0/t1/0/healthy"}}}
	o, dir := compose(t, w, "n8n", "n8n-worker")
	s := open(t, o, quick())
	for i, step := range []func() error{
		func() error { return s.Stop(t.Context()) },
		func() error { return s.Start(t.Context()) },
		func() error { return s.Healthy(t.Context()) },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	ps := "docker compose -f DIR/compose.yaml ps -a -q n8n n8n-worker"
	inspect := "docker inspect --type container --format FORMAT n8n1 n8n-worker1"
	want := []string{
		"docker compose version",
		"docker compose -f DIR/compose.yaml stop n8n n8n-worker", ps, inspect, ps, inspect,
		"docker compose -f DIR/compose.yaml up -d --no-deps --no-recreate n8n n8n-worker", ps, inspect, ps, inspect,
	}
	got := calls(t, dir)
	if diff := cmp.Diff(want, got[:min(len(want), len(got))]); diff != "" {
		t.Error(diff)
	}
	if got := s.String(); got != fmt.Sprintf(`services "n8n", "n8n-worker" of docker compose file %q`, o.File) {
		t.Error(got)
	}
}

func TestComposeRecreates(t *testing.T) {
	t.Setenv("N8N_ENCRYPTION_KEY", "the-old-key-of-n8n-0123")
	t.Setenv("KEY_OF_MINE", "the-old-key-of-n8n-0123")
	t.Setenv("KEY_TO_COME", "the-new-key-of-n8n-0123")
	o, dir := compose(t, stack(), "n8n")
	o.Recreate = true
	over := filepath.Join(dir, "compose.override.yaml")
	if err := os.WriteFile(over, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o.Replaced = secret.NewString("the-old-key-of-n8n-0123")
	s := open(t, o, quick())
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := calls(t, dir)
	for _, want := range []string{
		// The file may demand the variable to be there; what is stopped does not read it.
		"docker compose -f DIR/compose.yaml -f DIR/compose.override.yaml stop n8n $N8N_ENCRYPTION_KEY $KEY_OF_MINE $KEY_TO_COME",
		// The old key in our environment would win over the new one in .env.
		"docker compose -f DIR/compose.yaml -f DIR/compose.override.yaml up -d --no-deps n8n $KEY_TO_COME",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q not in %q", want, got)
		}
	}
}

func TestComposeStandalone(t *testing.T) {
	t.Parallel()
	w := stack()
	w.NoCompose = true
	o, dir := compose(t, w, "n8n")
	if err := open(t, o, quick()).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "docker-compose -f DIR/compose.yaml stop n8n"; !slices.Contains(calls(t, dir), want) {
		t.Errorf("%q not in %q", want, calls(t, dir))
	}
	o.command = nil
	o.Docker = "docker-that-is-not-there"
	_, err := o.State(t.Context())
	fails(t, err, problem.Usage, "docker was not found", "--stop-command")
	o.command = nil
	o.Standalone = "docker-compose-that-is-not-there"
	_, err = o.State(t.Context())
	fails(t, err, problem.Usage, `neither "docker compose" nor docker-compose works here`, "on the host that runs n8n's containers")
}

func TestComposeFindsServices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, config string
		want         []string
	}{
		{"by image", `
name: demo
services:
  main: {image: "docker.n8n.io/n8nio/n8n:2.41.1"}
  worker: {image: n8nio/n8n}
  hooks: {image: "registry.local:5000/own-n8n@sha256:abc"}
  n8n-runners: {image: n8nio/runners}
  n8n-db: {image: "postgres:16"}
  redis: {image: redis}
`, []string{"hooks", "main", "worker"}},
		{"by name", `
services:
  n8n: {build: {context: .}}
  n8n-worker: {image: "${IMAGE}"}
  n8n-postgres: {image: "${PG}"}
  task-runners-n8n: {build: .}
`, []string{"n8n", "n8n-worker"}},
		{"the only one", "services:\n  app: {image: private/automation}\n", []string{"app"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, dir := compose(t, world{Config: tt.config})
			if err := o.Find(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, o.Services); diff != "" {
				t.Error(diff)
			}
			if want := "docker compose -f DIR/compose.yaml config --no-interpolate"; !slices.Contains(calls(t, dir), want) {
				t.Errorf("%q not in %q", want, calls(t, dir))
			}
		})
	}
}

func TestComposeRefusals(t *testing.T) {
	t.Parallel()
	stop := func(s *Service, t *testing.T) error { return s.Stop(t.Context()) }
	start := func(s *Service, t *testing.T) error { return s.Start(t.Context()) }
	healthy := func(s *Service, t *testing.T) error { return s.Healthy(t.Context()) }
	states := func(list ...string) world {
		w := stack()
		w.Services["n8n"].Containers[0].States = list
		return w
	}
	for _, tt := range []struct {
		name     string
		world    func() world
		services []string
		cfg      Config
		do       func(*Service, *testing.T) error
		kind     problem.Kind
		parts    []string
	}{
		{"no such service", stack, []string{"n9n"}, quick(), stop, problem.NotFound, []string{"no such service: n9n", "--compose-service"}},
		{"not a name", stack, []string{"--all"}, quick(), stop, problem.Usage, []string{`"--all" is not the name of a service`}},
		{"no daemon", func() world { return world{Daemon: "absent"} }, []string{"n8n"}, quick(), stop, problem.Unreachable, []string{"docker does not run", "systemctl start docker"}},
		{"denied", func() world { return world{Daemon: "denied"} }, []string{"n8n"}, quick(), stop, problem.Usage, []string{"docker was not allowed", "group docker"}},
		{"which service", func() world { return world{Config: "services:\n  a: {image: x}\n  b: {image: y}\n"} }, nil, quick(), stop, problem.Usage,
			[]string{"cannot be told from their images", "--compose-service; there are: a, b"}},
		{"no services", func() world { return world{Config: "services: {}\n"} }, nil, quick(), stop, problem.Usage, []string{"there are: none"}},
		{"not YAML", func() world { return world{Config: "\tsecret: ["} }, nil, quick(), stop, problem.Unexpected, []string{"does not answer in YAML", "--compose-service"}},
		{"config fails", func() world { return world{ConfigFail: `required variable KEY is missing a value`} }, nil, quick(), stop, problem.Unexpected,
			[]string{"docker config of docker compose file", "ended with exit status 15: required variable KEY is missing a value"}},
		{"stop fails", func() world { w := stack(); w.Services["n8n"].FailStop = "Error: tried to kill container"; return w }, []string{"n8n"}, quick(), stop, problem.Unexpected,
			[]string{`docker stop of service "n8n"`, "tried to kill container", "logs --tail 50 n8n"}},
		{"stays", func() world {
			w := stack()
			w.Services["n8n"].OnStop = []*container{{ID: "n8n1", Name: "demo-n8n-1", States: []string{"restarting/1/t/3"}}}
			return w
		}, []string{"n8n"}, short(), stop, problem.Busy, []string{`container "demo-n8n-1" is restarting`}},
		{"up fails", func() world {
			w := stack()
			w.Services["n8n"].FailStart = "Error response from daemon: port is already allocated"
			return w
		}, []string{"n8n"}, quick(), start, problem.Unexpected,
			[]string{"starting n8n: docker up of", "port is already allocated"}},
		{"ended", func() world { return states("exited/1/t/0") }, []string{"n8n"}, quick(), healthy, problem.Unreachable, []string{`n8n has ended again: container "demo-n8n-1" is exited with status 1`}},
		{"again and again", func() world { return states("restarting/1/t/7") }, []string{"n8n"}, short(), healthy, problem.Unreachable, []string{`container "demo-n8n-1" is restarting`}},
		{"unhealthy", func() world { return states("running/0/t/0/unhealthy") }, []string{"n8n"}, short(), healthy, problem.Unreachable, []string{`is running (unhealthy)`}},
		{"no container", func() world { w := stack(); w.Services["n8n"].Containers = nil; return w }, []string{"n8n"}, short(), healthy, problem.Unreachable, []string{`service "n8n" is without a container`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, _ := compose(t, tt.world(), tt.services...)
			fails(t, tt.do(open(t, o, tt.cfg), t), tt.kind, tt.parts...)
		})
	}
	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		for _, old := range []bool{false, true} {
			w := stack()
			w.NoCompose = old
			o, _ := compose(t, w, "n8n")
			o.File = filepath.Join(t.TempDir(), "none.yaml")
			fails(t, o.Stop(t.Context()), problem.NotFound, "none.yaml", "--compose FILE")
		}
	})
}
