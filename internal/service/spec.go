package service

import (
	"path/filepath"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Spec says how n8n is stopped and started, as flags and the configuration say it.
// A rotation's journal records it, so that the rotation can be resumed by its id
// alone; commands are recorded as they were given.
type Spec struct {
	StopCommand  string `json:"stop_command,omitempty"`
	StartCommand string `json:"start_command,omitempty"`

	Systemd []string `json:"systemd,omitempty"` // units

	Compose         string   `json:"compose,omitempty"` // file
	ComposeServices []string `json:"compose_services,omitempty"`
	// ComposeRecreate says that the key is set in the compose file or its variables.
	ComposeRecreate bool `json:"compose_recreate,omitempty"`

	HealthURL string `json:"health_url,omitempty"`
}

// ByUser reports whether nothing is named: the user stops and starts n8n.
func (s Spec) ByUser() bool {
	return s.StopCommand == "" && s.StartCommand == "" && len(s.Systemd) == 0 && s.Compose == ""
}

// Absolute is the Spec with paths that mean the same in every folder.
func (s Spec) Absolute() (Spec, error) {
	if s.Compose != "" {
		path, err := filepath.Abs(s.Compose)
		if err != nil {
			return s, problem.Wrap(problem.Unexpected, err, "finding docker compose file %q", s.Compose)
		}
		s.Compose = path
	}
	return s, nil
}

// Orchestrator is the one that s names; exactly one has to be. hide are secrets that
// commands must not get, nor errors show. It does no I/O.
func (s Spec) Orchestrator(hide ...secret.String) (Orchestrator, error) {
	commands := s.StopCommand != "" || s.StartCommand != ""
	kinds := 0
	for _, named := range []bool{commands, len(s.Systemd) > 0, s.Compose != ""} {
		if named {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return nil, problem.New(problem.Usage, "nothing is named that stops and starts n8n").
			WithHint("give --stop-command and --start-command, --systemd UNIT, or --compose FILE; or stop and start it yourself")
	case kinds > 1:
		return nil, problem.New(problem.Usage, "n8n can be stopped and started in one way only, and more are named").
			WithHint("give either --stop-command and --start-command, or --systemd UNIT, or --compose FILE")
	case len(s.ComposeServices) > 0 && s.Compose == "":
		return nil, problem.New(problem.Usage, "--compose-service names a service without a compose file").WithHint("give the file, too: --compose FILE")
	case commands && s.StartCommand == "":
		return nil, problem.New(problem.Usage, "--stop-command without --start-command: n8n would stay stopped").
			WithHint("give --start-command, too, or stop n8n yourself before")
	case commands:
		return &Command{StopLine: s.StopCommand, StartLine: s.StartCommand, Hide: hide}, nil
	case s.Compose != "":
		abs, err := s.Absolute()
		if err != nil {
			return nil, err
		}
		return &Compose{File: abs.Compose, Services: s.ComposeServices, Recreate: s.ComposeRecreate}, nil
	}
	return &Systemd{Units: s.Systemd}, nil
}

// Open is the Service that s names, with s.HealthURL; see [Spec.Orchestrator].
func Open(s Spec, cfg Config, hide ...secret.String) (*Service, error) {
	o, err := s.Orchestrator(hide...)
	if err != nil {
		return nil, err
	}
	if c, ok := o.(*Compose); ok {
		c.Replaced = cfg.Replaced
	}
	if s.HealthURL != "" {
		cfg.HealthURL = s.HealthURL
	}
	return New(o, cfg)
}
