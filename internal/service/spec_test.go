package service

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

func TestSpec(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(wd, "compose.yaml")
	for _, tt := range []struct {
		spec Spec
		want string
	}{
		{Spec{StopCommand: "a", StartCommand: "b"}, "stop and start commands"},
		{Spec{StartCommand: "b"}, "the user and a start command"},
		{Spec{Systemd: []string{"n8n"}}, `systemd unit "n8n"`},
		{Spec{Compose: "compose.yaml", ComposeServices: []string{"n8n"}, HealthURL: "http://h"}, `service "n8n" of docker compose file "` + file + `"`},
		{Spec{Compose: file}, `docker compose file "` + file + `"`},
	} {
		abs, err := tt.spec.Absolute()
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(abs)
		if err != nil {
			t.Fatal(err)
		}
		var back Spec
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(abs, back); diff != "" {
			t.Error(diff)
		}
		s, err := Open(back, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.String(); got != tt.want || tt.spec.ByUser() {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	for _, tt := range []struct {
		spec Spec
		want string
	}{
		{Spec{}, "nothing is named that stops and starts n8n"},
		{Spec{HealthURL: "http://h"}, "nothing is named"},
		{Spec{StopCommand: "a"}, "--stop-command without --start-command"},
		{Spec{StartCommand: "a", Systemd: []string{"b"}}, "in one way only"},
		{Spec{Compose: "a", Systemd: []string{"b"}}, "in one way only"},
		{Spec{Systemd: []string{"b"}, ComposeServices: []string{"c"}}, "--compose-service names a service without a compose file"},
		{Spec{StartCommand: "a", HealthURL: "localhost:5678"}, "health URL is not an http or https address"},
	} {
		_, err := Open(tt.spec, Config{})
		fails(t, err, problem.Usage, tt.want)
	}
	if !(Spec{HealthURL: "http://h"}).ByUser() {
		t.Error("by whom?")
	}
}
