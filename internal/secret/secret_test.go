package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const planted = "pl4nted-s3cret"

func TestNeverPrinted(t *testing.T) {
	type holder struct {
		S String
		b Bytes
		p *String
	}
	s := NewString(planted)
	h := holder{S: s, b: NewBytes([]byte(planted)), p: &s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
		for _, v := range []any{h, &h, h.S, h.b, []String{h.S}, map[string]Bytes{"k": h.b}} {
			out := fmt.Sprintf(verb, v)
			if strings.Contains(out, planted) || strings.Contains(out, fmt.Sprintf("%x", planted)) || strings.Contains(out, fmt.Sprintf("%v", []byte(planted))) {
				t.Errorf("%s of %T shows the secret: %s", verb, v, out)
			}
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "s", h.S, "b", h.b)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "s", h.S, "b", h.b)
	if strings.Contains(log.String(), planted) || !strings.Contains(log.String(), Redacted) {
		t.Errorf("log: %s", log.String())
	}
	for _, v := range []any{h.S, h.b, h} {
		if out, err := json.Marshal(v); err == nil {
			t.Errorf("json of %T succeeded: %s", v, out)
		}
	}
}

func TestReveal(t *testing.T) {
	if NewString(planted).Reveal() != planted || string(NewBytes([]byte(planted)).Reveal()) != planted {
		t.Fatal("reveal differs")
	}
	var s String
	var b Bytes
	if !s.IsZero() || !b.IsZero() || s.Reveal() != "" || b.Reveal() != nil {
		t.Fatal("zero values are not empty")
	}
	b = NewBytes([]byte(planted))
	b.Wipe()
	if bytes.ContainsAny(b.Reveal(), planted) {
		t.Fatal("wipe left bytes")
	}
}
