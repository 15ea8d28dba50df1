package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Compose stops and starts services of a docker compose file, by `docker compose` or,
// where docker has no such command, docker-compose. Other services of the file,
// databases above all, are left alone.
//
// docker compose gets our environment, since the file may refer to it; less the
// instance key where it makes containers, whatever the variable is called, because the
// old key there would win over the new one in a file .env.
type Compose struct {
	// File is the compose file. Where it has one of the standard names and an override
	// file stands beside it, that is used, too, as docker compose does by itself.
	File string
	// Services are those of n8n. Empty: the services that run an image of n8n; in a
	// file with one service, that one.
	Services []string
	// Recreate makes new containers when the compose file, or a variable in it, has
	// changed: needed where the key is set there. Without it the stopped containers are
	// started as they are, so that no other change of the file comes into effect during a rotation.
	Recreate bool
	// Docker and Standalone are the programs docker and docker-compose; "" finds them
	// in PATH.
	Docker, Standalone string
	// Replaced is the instance key that n8n has had, and must not be started with.
	Replaced secret.String

	command []string // docker compose, or docker-compose; once it is known
}

func (c *Compose) String() string {
	if len(c.Services) == 0 {
		return fmt.Sprintf("docker compose file %q", c.File)
	}
	if len(c.Services) == 1 {
		return fmt.Sprintf("service %q of docker compose file %q", c.Services[0], c.File)
	}
	return fmt.Sprintf("services %s of docker compose file %q", quoted(c.Services), c.File)
}

// Deployment is the compose file, and the one that overrides it.
func (c *Compose) Deployment(context.Context) (Deployment, error) {
	return Deployment{Compose: c.files()}, nil
}

func (c *Compose) files() []string {
	files := []string{c.File}
	if over := override(c.File); over != "" {
		files = append(files, over)
	}
	return files
}

// Logs is a command.
func (c *Compose) Logs() string {
	return fmt.Sprintf("docker compose -f %q logs --tail 50 %s", c.File, strings.Join(c.Services, " "))
}

// Stop stops the containers. They are kept.
func (c *Compose) Stop(ctx context.Context) error {
	if err := c.Find(ctx); err != nil {
		return err
	}
	_, err := c.compose(ctx, os.Environ(), append([]string{"stop"}, c.Services...)...)
	return err
}

// Start starts the containers, and makes those that are missing.
func (c *Compose) Start(ctx context.Context) error {
	if err := c.Find(ctx); err != nil {
		return err
	}
	args, environ := []string{"up", "-d", "--no-deps"}, os.Environ()
	if c.Recreate {
		// A variable of ours would win over the new key in the file .env.
		environ = slices.DeleteFunc(environ, func(v string) bool {
			name, value, _ := strings.Cut(v, "=")
			return name == instanceKeyVariable || holds(value, c.Replaced)
		})
	} else {
		args = append(args, "--no-recreate")
	}
	_, err := c.compose(ctx, environ, append(args, c.Services...)...)
	return err
}

// inspection is what is asked of each container; nothing of its environment.
const inspection = `{{index .Config.Labels "com.docker.compose.service"}}|{{.Name}}|{{.State.Status}}|{{.State.ExitCode}}|{{.State.StartedAt}}|{{.RestartCount}}|{{if .State.Health}}{{.State.Health.Status}}{{end}}`

// State asks for each container of the services, and names services without one.
func (c *Compose) State(ctx context.Context) ([]Part, error) {
	if err := c.Find(ctx); err != nil {
		return nil, err
	}
	o, err := c.compose(ctx, os.Environ(), append([]string{"ps", "-a", "-q"}, c.Services...)...)
	if err != nil {
		return nil, err
	}
	var parts []Part
	has := map[string]bool{}
	if ids := strings.Fields(string(o.stdout)); len(ids) > 0 {
		o, err := c.run(ctx, "inspect", os.Environ(), []string{c.docker()}, append([]string{"inspect", "--type", "container", "--format", inspection}, ids...)...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(o.stdout)) {
			f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
			if len(f) != 7 {
				return nil, problem.New(problem.Unexpected, "docker inspect does not answer in the expected form")
			}
			has[f[0]] = true
			parts = append(parts, containerPart(strings.TrimPrefix(f[1], "/"), f[2], f[3], f[4]+" "+f[5], f[6]))
		}
	}
	for _, s := range c.Services {
		if !has[s] {
			parts = append(parts, Part{Name: fmt.Sprintf("service %q", s), State: "without a container"})
		}
	}
	return parts, nil
}

func containerPart(name, status, code, run, health string) Part {
	p := Part{Name: fmt.Sprintf("container %q", name), State: status, Run: run}
	switch status {
	case "running":
		p.Runs = true
		p.Well = health == "" || health == "none" || health == "healthy"
		if !p.Well {
			p.State += " (" + health + ")"
		}
	case "exited", "dead":
		p.Failed = true
		p.State += " with status " + code
	case "created", "removing":
	default: // restarting, paused, and what is to come
		p.Runs = true
	}
	return p
}

// Find settles the command and the services.
func (c *Compose) Find(ctx context.Context) error {
	if c.command == nil {
		if err := c.findCommand(ctx); err != nil {
			return err
		}
	}
	for _, s := range c.Services {
		if !serviceName.MatchString(s) {
			return problem.New(problem.Usage, "%q is not the name of a service", s).WithHint("give the name that stands below services: in the compose file")
		}
	}
	if len(c.Services) > 0 {
		return nil
	}
	// Without the values of variables: nothing secret is asked for.
	o, err := c.compose(ctx, os.Environ(), "config", "--no-interpolate")
	if err != nil {
		return err
	}
	var file struct {
		Services map[string]struct {
			Image string `yaml:"image"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(o.stdout, &file); err != nil {
		// The parser quotes what it could not read.
		return problem.New(problem.Unexpected, "docker compose config does not answer in YAML").
			WithHint("name n8n's services with --compose-service")
	}
	var all, n8n []string
	for name, service := range file.Services {
		all = append(all, name)
		if runsN8N(name, service.Image) {
			n8n = append(n8n, name)
		}
	}
	slices.Sort(all)
	slices.Sort(n8n)
	switch {
	case len(n8n) > 0:
		c.Services = n8n
	case len(all) == 1:
		c.Services = all
	default:
		return problem.New(problem.Usage, "which services of docker compose file %q are n8n cannot be told from their images", c.File).
			WithHint("name them, workers and webhook processes included, with --compose-service; there are: %s", cmp.Or(strings.Join(all, ", "), "none"))
	}
	return nil
}

// runsN8N judges by the image, n8nio/n8n or one of one's own, and where that says
// nothing by the name. Task runners hold no key and touch no database.
func runsN8N(name, image string) bool {
	if image != "" && !strings.Contains(image, "$") {
		image, _, _ = strings.Cut(image, "@")
		name = image[strings.LastIndexByte(image, '/')+1:]
		name, _, _ = strings.Cut(name, ":")
	}
	return n8nName.MatchString(name) && !notN8N.MatchString(name)
}

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}$`)
	n8nName     = regexp.MustCompile(`(?i)(?:^|[^a-z0-9])n8n(?:[^a-z0-9]|$)`)
	notN8N      = regexp.MustCompile(`(?i)runner|postgres|redis|database|(?:^|[^a-z])db(?:[^a-z]|$)|proxy|caddy|traefik|nginx`)
)

func (c *Compose) docker() string     { return cmp.Or(c.Docker, "docker") }
func (c *Compose) standalone() string { return cmp.Or(c.Standalone, "docker-compose") }

func (c *Compose) findCommand(ctx context.Context) error {
	p := process{path: c.docker(), args: []string{"compose", "version"}, env: os.Environ()}
	o, err := p.run(ctx)
	if err == nil && o.ok() {
		c.command = []string{c.docker(), "compose"}
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p = process{path: c.standalone(), args: []string{"version"}, env: os.Environ()}
	if o, err := p.run(ctx); err == nil && o.ok() {
		c.command = []string{c.standalone()}
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return problem.New(problem.Usage, `neither "docker compose" nor docker-compose works here`).
		WithHint("run n8keep on the host that runs n8n's containers, or give --stop-command and --start-command")
}

// compose runs a command of docker compose on the file. An outcome that is not
// success is an error.
func (c *Compose) compose(ctx context.Context, environ []string, args ...string) (outcome, error) {
	var named []string
	for _, file := range c.files() {
		named = append(named, "-f", file)
	}
	return c.run(ctx, args[0], environ, c.command, append(named, args...)...)
}

// override is the file that docker compose adds to one of standard name.
func override(file string) string {
	dir, base := filepath.Split(file)
	var names []string
	switch base {
	case "compose.yaml", "compose.yml":
		names = []string{"compose.override.yaml", "compose.override.yml"}
	case "docker-compose.yaml", "docker-compose.yml":
		names = []string{"docker-compose.override.yaml", "docker-compose.override.yml"}
	}
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

var (
	dockerDenied = regexp.MustCompile(`(?i)permission denied`)
	dockerAbsent = regexp.MustCompile(`(?i)cannot connect to the docker daemon|is the docker daemon running|error during connect|couldn't connect to docker daemon`)
	dockerNoFile = regexp.MustCompile(`(?i)^open .*no such file or directory|FileNotFoundError`)
	dockerNoName = regexp.MustCompile(`(?i)no such service`)
)

func (c *Compose) run(ctx context.Context, verb string, environ, command []string, args ...string) (outcome, error) {
	args = append(slices.Clone(command[1:]), args...)
	p := process{path: command[0], args: args, env: append(slices.Clone(environ), "COMPOSE_ANSI=never", "COMPOSE_PROGRESS=plain", "DOCKER_CLI_HINTS=false")}
	o, err := p.run(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		return o, problem.New(problem.Usage, "docker was not found").
			WithHint("n8keep asks docker how the containers are: install its command line, or give --stop-command and --start-command")
	}
	if err != nil || o.ok() {
		return o, err
	}
	said := shown(o.stderr, nil)
	switch {
	case dockerDenied.MatchString(said):
		return o, problem.New(problem.Usage, "docker was not allowed: %s", said).
			WithHint("run n8keep as root, or as a user of the group docker")
	case dockerAbsent.MatchString(said):
		return o, problem.New(problem.Unreachable, "docker does not run: %s", said).WithHint("start docker: systemctl start docker")
	case dockerNoName.MatchString(said):
		return o, problem.New(problem.NotFound, "docker compose file %q: %s", c.File, said).WithHint("--compose-service takes the names below services: in the file")
	case dockerNoFile.MatchString(said):
		return o, problem.New(problem.NotFound, "docker compose file %q: %s", c.File, said).WithHint("give its path with --compose FILE")
	}
	if said != "" {
		said = ": " + said
	}
	return o, problem.New(problem.Unexpected, "docker %s of %s %s%s", verb, c, o.how(), said)
}
