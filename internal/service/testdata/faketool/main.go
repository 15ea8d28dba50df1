// Command faketool stands in for systemctl, docker and docker-compose, by the name
// it is called by. It is a contract fake: it takes the arguments that the real ones
// take, refuses others, prints and exits as they do (systemd 252, docker 27 with
// compose 2.29, docker-compose 1.29), and keeps its world in the file world.json
// beside itself. Each call is appended to the file calls, one JSON list a line.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// World is what there is. Lists of states are consumed: each look at a thing takes
// the first, and the last one stays.
type World struct {
	Units      map[string]*Unit
	Bus        string // "", "absent", "denied"
	Daemon     string // "", "absent", "denied"
	NoCompose  bool   // docker has no command compose
	Services   map[string]*Service
	Config     string // what config prints
	ConfigFail string
}

type Unit struct {
	User               bool
	Load               string
	States             []string // active/sub/result/invocation
	OnStop, OnStart    []string
	FailStop           string // what stderr says
	FailStart          string
	Fragment, DropIns  string
	ExitStop, ExitBoot int
}

type Service struct {
	Containers      []*Container
	OnStop, OnStart []*Container
	FailStop        string
	FailStart       string
}

type Container struct {
	ID, Name string
	States   []string // status/exit/started/restarts/health
}

var here string

func main() {
	exe, err := os.Executable()
	check(err)
	here = filepath.Dir(exe)
	name := filepath.Base(os.Args[0])
	record(name)
	b, err := os.ReadFile(filepath.Join(here, "world.json"))
	check(err)
	var w World
	check(json.Unmarshal(b, &w))
	code := 0
	switch name {
	case "systemctl":
		code = w.systemctl(os.Args[1:])
	case "docker":
		code = w.docker(os.Args[1:])
	case "docker-compose":
		code = w.compose(os.Args[1:], true)
	default:
		code = fail(64, "unknown program "+name)
	}
	b, err = json.Marshal(w)
	check(err)
	check(os.WriteFile(filepath.Join(here, "world.json"), b, 0o600))
	os.Exit(code)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "faketool:", err)
		os.Exit(99)
	}
}

func record(name string) {
	call := append([]string{name}, os.Args[1:]...)
	for _, v := range []string{"N8N_ENCRYPTION_KEY", "PGPASSWORD", "KEY_OF_MINE", "KEY_TO_COME"} {
		if _, ok := os.LookupEnv(v); ok {
			call = append(call, "$"+v)
		}
	}
	b, err := json.Marshal(call)
	check(err)
	f, err := os.OpenFile(filepath.Join(here, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	_, err = f.Write(append(b, '\n'))
	check(err)
	check(f.Close())
}

func fail(code int, lines ...string) int {
	for _, l := range lines {
		fmt.Fprintln(os.Stderr, l)
	}
	return code
}

// take is the next state.
func take(states *[]string) string {
	s := (*states)[0]
	if len(*states) > 1 {
		*states = (*states)[1:]
	}
	return s
}

func field(s string, n int) string {
	f := strings.Split(s, "/")
	if n < len(f) {
		return f[n]
	}
	return ""
}

func (w *World) systemctl(args []string) int {
	user := false
	var verb, properties string
	var units []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--user":
			user = true
		case a == "--no-ask-password":
		case strings.HasPrefix(a, "--property="):
			properties = strings.TrimPrefix(a, "--property=")
		case a == "--":
			units = append(units, args[i+1:]...)
			i = len(args)
		case strings.HasPrefix(a, "-"):
			return fail(1, "systemctl: unrecognized option '"+a+"'")
		case verb == "":
			verb = a
		default:
			units = append(units, a)
		}
	}
	if w.Bus == "absent" {
		return fail(1, "System has not been booted with systemd as init system (PID 1). Can't operate.", "Failed to connect to bus: Host is down")
	}
	if user && os.Getenv("XDG_RUNTIME_DIR") == "none" {
		return fail(1, "Failed to connect to bus: $DBUS_SESSION_BUS_ADDRESS and $XDG_RUNTIME_DIR not defined (consider using --machine=<user>@.host --user to connect to bus of other user)")
	}
	for _, name := range units {
		full := name
		if !strings.Contains(full, ".") {
			full += ".service"
		}
		u := w.Units[full]
		if u != nil && u.User != user {
			u = nil
		}
		switch verb {
		case "show":
			if properties == "" {
				return fail(64, "the fake does not print all properties")
			}
			// systemd prints in its own order, whatever was asked for.
			values := [][2]string{{"Result", "success"}, {"LoadState", "not-found"}, {"ActiveState", "inactive"}, {"FragmentPath", ""}, {"DropInPaths", ""}, {"SubState", "dead"}, {"InvocationID", ""}}
			if u != nil {
				s := take(&u.States)
				load := u.Load
				if load == "" {
					load = "loaded"
				}
				result := field(s, 2)
				if result == "" {
					result = "success"
				}
				values = [][2]string{{"Result", result}, {"LoadState", load}, {"ActiveState", field(s, 0)}, {"FragmentPath", u.Fragment}, {"DropInPaths", u.DropIns}, {"SubState", field(s, 1)}, {"InvocationID", field(s, 3)}}
			}
			for _, v := range values {
				if slices.Contains(strings.Split(properties, ","), v[0]) {
					fmt.Printf("%s=%s\n", v[0], v[1])
				}
			}
		case "stop", "start":
			switch {
			case w.Bus == "denied":
				return fail(1, "Failed to "+verb+" "+full+": Interactive authentication required.", "See system logs and 'systemctl status "+full+"' for details.")
			case u == nil && verb == "stop":
				return fail(5, "Failed to stop "+full+": Unit "+full+" not loaded.")
			case u == nil:
				return fail(5, "Failed to start "+full+": Unit "+full+" not found.")
			case verb == "stop" && u.FailStop != "":
				return fail(u.ExitStop, u.FailStop)
			case verb == "start" && u.FailStart != "":
				return fail(u.ExitBoot, u.FailStart)
			case verb == "stop" && u.OnStop != nil:
				u.States = u.OnStop
			case verb == "stop":
				u.States = []string{"inactive/dead"}
			case u.OnStart != nil:
				u.States = u.OnStart
			default:
				u.States = []string{"active/running//a"}
			}
		default:
			return fail(1, "Unknown command verb "+verb+".")
		}
	}
	return 0
}

func (w *World) docker(args []string) int {
	switch {
	case len(args) > 0 && args[0] == "compose":
		if w.NoCompose {
			return fail(1, "docker: 'compose' is not a docker command.", "See 'docker --help'")
		}
		return w.compose(args[1:], false)
	case len(args) > 5 && args[0] == "inspect" && args[1] == "--type" && args[2] == "container" && args[3] == "--format":
		if code := w.daemon(); code != 0 {
			return code
		}
		t, err := template.New("").Parse(args[4])
		if err != nil {
			return fail(64, "template parsing error: "+err.Error())
		}
		for _, id := range args[5:] {
			service, c := w.container(id)
			if c == nil {
				return fail(1, "Error: No such container: "+id)
			}
			s := take(&c.States)
			type health struct{ Status string }
			var data struct {
				Name         string
				RestartCount string
				Config       struct{ Labels map[string]string }
				State        struct {
					Status, ExitCode, StartedAt string
					Health                      *health
				}
			}
			data.Name, data.RestartCount = "/"+c.Name, field(s, 3)
			data.Config.Labels = map[string]string{"com.docker.compose.service": service}
			data.State.Status, data.State.ExitCode, data.State.StartedAt = field(s, 0), field(s, 1), field(s, 2)
			if h := field(s, 4); h != "" {
				data.State.Health = &health{h}
			}
			check(t.Execute(os.Stdout, data))
			fmt.Println()
		}
		return 0
	}
	return fail(1, "docker: unknown command: "+strings.Join(args, " "))
}

func (w *World) container(id string) (string, *Container) {
	for name, s := range w.Services {
		for _, c := range s.Containers {
			if c.ID == id {
				return name, c
			}
		}
	}
	return "", nil
}

func (w *World) daemon() int {
	switch w.Daemon {
	case "absent":
		return fail(1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
	case "denied":
		return fail(1, "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.46/containers/json\": dial unix /var/run/docker.sock: connect: permission denied")
	}
	return 0
}

func (w *World) compose(args []string, v1 bool) int {
	files := 0
	for len(args) > 1 && args[0] == "-f" {
		if _, err := os.Stat(args[1]); err != nil {
			if v1 {
				return fail(1, "ERROR: .FileNotFoundError: [Errno 2] No such file or directory: '"+args[1]+"'")
			}
			return fail(14, "open "+args[1]+": no such file or directory")
		}
		files++
		args = args[2:]
	}
	if len(args) == 0 {
		return fail(1, "no command")
	}
	if args[0] == "version" {
		fmt.Println("Docker Compose version v2.29.1")
		return 0
	}
	if files == 0 {
		return fail(14, "no configuration file provided: not found")
	}
	verb, rest := args[0], args[1:]
	var flags, names []string
	for _, a := range rest {
		if strings.HasPrefix(a, "-") {
			flags = append(flags, a)
		} else {
			names = append(names, a)
		}
	}
	allowed := map[string][]string{"stop": nil, "up": {"-d", "--no-deps", "--no-recreate"}, "ps": {"-a", "-q"}, "config": {"--no-interpolate"}}
	for _, f := range flags {
		if !slices.Contains(allowed[verb], f) {
			return fail(16, "unknown flag: "+f)
		}
	}
	if verb == "config" {
		if w.ConfigFail != "" {
			return fail(15, w.ConfigFail)
		}
		fmt.Print(w.Config)
		return 0
	}
	if code := w.daemon(); code != 0 {
		return code
	}
	for _, name := range names {
		s := w.Services[name]
		if s == nil {
			if v1 {
				return fail(1, "ERROR: No such service: "+name)
			}
			return fail(1, "no such service: "+name)
		}
		switch verb {
		case "ps":
			for _, c := range s.Containers {
				fmt.Println(c.ID)
			}
		case "stop":
			if s.FailStop != "" {
				return fail(1, s.FailStop)
			}
			if s.OnStop != nil {
				s.Containers = s.OnStop
				continue
			}
			for _, c := range s.Containers {
				c.States = []string{"exited/0"}
			}
		case "up":
			if s.FailStart != "" {
				return fail(1, s.FailStart)
			}
			if s.OnStart != nil {
				s.Containers = s.OnStart
				continue
			}
			if len(s.Containers) == 0 {
				s.Containers = []*Container{{ID: name + "1", Name: "demo-" + name + "-1"}}
			}
			for _, c := range s.Containers {
				c.States = []string{"running/0/t1/0"}
			}
			fmt.Fprintln(os.Stderr, " Container demo-"+name+"-1  Started")
		default:
			return fail(16, "unknown docker command: \"compose "+verb+"\"")
		}
	}
	return 0
}
