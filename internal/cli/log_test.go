package cli

import (
	"errors"
	"log/slog"
	"testing"
)

func TestLoggerWarns(t *testing.T) {
	term, out, errs := screen()
	log := newLogger(term)
	log.Info("not for people")
	log.Warn("the audit log cannot be written", "file", "/x\x1b[2J", "err", errors.New("disk full"))
	log.With("instance", "prod").WithGroup("copy").Error("failed", "tries", 3, slog.Group("at", "row", 7), slog.Attr{})
	diff(t, `n8keep: warning: the audit log cannot be written, file: /x\x1b[2J: disk full
n8keep: warning: failed, instance: prod, copy.tries: 3, copy.at.row: 7
`, errs.String())
	diff(t, "", out.String())
	term, _, errs = screen()
	term.Quiet = true
	newLogger(term).Error("x")
	diff(t, "", errs.String())
}
