package cli

import (
	"context"
	"log/slog"
	"strings"
	"sync"
)

// logHandler prints log records from warnings up as the command's own warnings.
// It may be used by several goroutines.
type logHandler struct {
	mu    *sync.Mutex
	term  *Terminal
	group string
	attrs string // of With, ready to print
}

func newLogger(t *Terminal) *slog.Logger { return slog.New(logHandler{mu: new(sync.Mutex), term: t}) }

func (h logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && !h.term.Quiet
}

func (h logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message + h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(attrText(h.group, a))
		return true
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.term.Warn(b.String())
	return nil
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += attrText(h.group, a)
	}
	return h
}

func (h logHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "."
	}
	return h
}

// attrText is ", name: value"; an error needs no name.
func attrText(group string, a slog.Attr) string {
	value := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
		return ""
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			group += a.Key + "."
		}
		var b strings.Builder
		for _, member := range value.Group() {
			b.WriteString(attrText(group, member))
		}
		return b.String()
	case a.Key == "err", a.Key == "error":
		return ": " + value.String()
	}
	return ", " + group + a.Key + ": " + value.String()
}
