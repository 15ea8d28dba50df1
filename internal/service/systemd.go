package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
)

// Systemd stops and starts units. It speaks to systemctl as of systemd 230 and later.
type Systemd struct {
	// Units are stopped and started together, such as "n8n.service"; at least one.
	Units []string
	// User says that they belong to the user's own service manager. When false and
	// the system's does not know the first unit, the user's is asked.
	User bool
	// Program is systemctl; "" finds it in PATH.
	Program string

	found bool // User is settled
}

func (s *Systemd) String() string {
	kind := "systemd unit "
	if len(s.Units) > 1 {
		kind = "systemd units "
	}
	if s.User {
		kind = "user's " + kind
	}
	return kind + quoted(s.Units)
}

// Logs is a command.
func (s *Systemd) Logs() string {
	line := "journalctl -n 50"
	if s.User {
		line += " --user"
	}
	for _, u := range s.Units {
		line += " -u " + u
	}
	return line
}

// Stop stops the units, which also ends their automatic restarts.
func (s *Systemd) Stop(ctx context.Context) error { return s.do(ctx, "stop") }

// Start starts them.
func (s *Systemd) Start(ctx context.Context) error { return s.do(ctx, "start") }

func (s *Systemd) do(ctx context.Context, verb string) error {
	// systemctl stop of a unit that does not exist is an error only in some cases.
	if err := s.find(ctx); err != nil {
		return err
	}
	o, err := s.run(ctx, append([]string{"--no-ask-password", verb, "--"}, s.Units...)...)
	if err != nil {
		return err
	}
	if !o.ok() {
		return s.refused(o, "systemctl "+verb)
	}
	return nil
}

// properties are what State and Files ask for. `systemctl show` answers for units
// that do not exist, too, and is meant for programs, which is-active alone is not: it
// has no word for a unit that is started again and again.
const properties = "LoadState,ActiveState,SubState,Result,InvocationID,FragmentPath,DropInPaths"

// State asks for each unit.
func (s *Systemd) State(ctx context.Context) ([]Part, error) {
	if err := s.find(ctx); err != nil {
		return nil, err
	}
	var parts []Part
	for _, unit := range s.Units {
		show, err := s.show(ctx, unit)
		if err != nil {
			return nil, err
		}
		state, sub := show["ActiveState"], show["SubState"]
		p := Part{Name: fmt.Sprintf("unit %q", unit), State: state, Run: show["InvocationID"]}
		if sub != "" && sub != state {
			p.State += " (" + sub + ")"
		}
		switch state {
		case "active":
			p.Runs, p.Well = true, true
		case "inactive", "failed":
			p.Failed = true
			if result := show["Result"]; result != "" && result != "success" {
				p.State += ", result " + result
			}
		case "":
			return nil, problem.New(problem.Unexpected, "systemctl does not say how unit %q is", unit)
		default: // activating, deactivating, reloading, and what is to come
			p.Runs = true
			p.Well = state == "reloading"
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// Deployment are the unit files and drop-ins of the units, in the order in which
// systemd reads them.
func (s *Systemd) Deployment(ctx context.Context) (Deployment, error) {
	if err := s.find(ctx); err != nil {
		return Deployment{}, err
	}
	var files []string
	for _, unit := range s.Units {
		show, err := s.show(ctx, unit)
		if err != nil {
			return Deployment{}, err
		}
		if path := show["FragmentPath"]; path != "" {
			files = append(files, path)
		}
		files = append(files, strings.Fields(show["DropInPaths"])...)
	}
	return Deployment{Units: files}, nil
}

// find settles which manager knows the units, and that it does.
func (s *Systemd) find(ctx context.Context) error {
	if s.found {
		return nil
	}
	for _, unit := range s.Units {
		if !unitName.MatchString(unit) {
			return problem.New(problem.Usage, "%q is not the name of a systemd unit", unit).WithHint("for example --systemd n8n.service")
		}
	}
	if len(s.Units) == 0 {
		return problem.New(problem.Usage, "no systemd unit is named").WithHint("for example --systemd n8n.service")
	}
	unknown, err := s.unknown(ctx)
	if err == nil && unknown == "" {
		s.found = true
		return nil
	}
	if !s.User && ctx.Err() == nil {
		user := *s
		user.User = true
		if missing, err := user.unknown(ctx); err == nil && missing == "" {
			s.User, s.found = true, true
			return nil
		}
	}
	if err != nil {
		return err
	}
	return problem.New(problem.NotFound, "systemd does not know a unit %q", unknown).
		WithHint("see: systemctl list-units --all '*n8n*', and with --user those of your own").
		WithHint("if n8n is started in another way, give --stop-command and --start-command")
}

// unknown is the first unit that the manager has not loaded.
func (s *Systemd) unknown(ctx context.Context) (string, error) {
	for _, unit := range s.Units {
		show, err := s.show(ctx, unit)
		if err != nil {
			return "", err
		}
		switch load := show["LoadState"]; load {
		case "not-found":
			return unit, nil
		case "loaded", "":
		default: // masked, error, bad-setting
			return "", problem.New(problem.Usage, "systemd cannot use unit %q: it is %s", unit, load).
				WithHint("see: systemctl status %s", unit)
		}
	}
	return "", nil
}

func (s *Systemd) show(ctx context.Context, unit string) (map[string]string, error) {
	o, err := s.run(ctx, "show", "--property="+properties, "--", unit)
	if err != nil {
		return nil, err
	}
	if !o.ok() {
		return nil, s.refused(o, "systemctl show")
	}
	values := map[string]string{}
	for line := range strings.Lines(string(o.stdout)) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			values[name] = value
		}
	}
	return values, nil
}

func (s *Systemd) run(ctx context.Context, args ...string) (outcome, error) {
	if s.User {
		args = append([]string{"--user"}, args...)
	}
	p := process{path: cmp.Or(s.Program, "systemctl"), args: args, env: append(variables(os.Environ(), nil), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")}
	o, err := p.run(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		return o, problem.New(problem.Usage, "systemctl was not found").
			WithHint("is systemd used here? If not, give --stop-command and --start-command")
	}
	return o, err
}

var (
	unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\][A-Za-z0-9:_.\\@-]{0,254}$`)

	systemdDenied  = regexp.MustCompile(`(?i)interactive authentication required|access denied|permission denied|not permitted`)
	systemdAbsent  = regexp.MustCompile(`(?i)not been booted with systemd|failed to connect to (?:the )?(?:system |user |session )?(?:scope )?bus|\$DBUS_SESSION_BUS_ADDRESS`)
	systemdUnknown = regexp.MustCompile(`(?i)unit \S+ (?:not loaded|not found|could not be found)`)
)

// refused explains a failure of systemctl.
func (s *Systemd) refused(o outcome, what string) error {
	said := shown(o.stderr, nil)
	switch {
	case systemdDenied.MatchString(said):
		return problem.New(problem.Usage, "%s of %s was not allowed: %s", what, s, said).
			WithHint("run n8keep as root")
	case systemdAbsent.MatchString(said):
		return problem.New(problem.Usage, "systemd cannot be reached: %s", said).
			WithHint("for a unit of your own, run as its user, logged in (XDG_RUNTIME_DIR must be set)").
			WithHint("in a container there is no systemd: give --stop-command and --start-command")
	case systemdUnknown.MatchString(said):
		return problem.New(problem.NotFound, "%s: %s", what, said).
			WithHint("see: systemctl list-units --all '*n8n*'")
	}
	if said != "" {
		said = ": " + said
	}
	return problem.New(problem.Unexpected, "%s of %s %s%s", what, s, o.how(), said).WithHint("look at its log: %s", s.Logs())
}

func quoted(names []string) string {
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf("%q", n))
	}
	return strings.Join(list, ", ")
}
