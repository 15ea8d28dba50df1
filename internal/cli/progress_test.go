package cli

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a Terminal's Now that the test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func barScreen() (*Terminal, *bytes.Buffer, *clock) {
	term, _, errs := screen()
	c := &clock{time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)}
	term.ErrTTY, term.Now = true, c.now
	return term, errs, c
}

// visible is what the last line of a screen shows after the output.
func visible(s string) string {
	line := []rune{}
	at := 0
	for _, r := range s {
		switch r {
		case '\r':
			at = 0
		case '\n':
			line, at = line[:0], 0
		default:
			for at >= len(line) {
				line = append(line, ' ')
			}
			line[at] = r
			at++
		}
	}
	return strings.TrimRight(string(line), " ")
}

func TestProgress(t *testing.T) {
	term, errs, c := barScreen()
	p := term.Progress("copying")
	p.Update(10, 100)
	c.t = c.t.Add(999 * time.Millisecond)
	p.Update(20, 100)
	diff(t, "", errs.String())
	c.t = c.t.Add(time.Millisecond)
	p.Update(25, 100)
	if got := visible(errs.String()); !strings.HasPrefix(got, "copying  25% |███") {
		t.Errorf("shows %q", got)
	}
	p.Update(100, 100)
	term.Warn("something")
	if !strings.Contains(errs.String(), "\r\rn8keep: warning: something\n") && visible(errs.String()) != "" {
		t.Errorf("the warning stands in the bar: %q", errs)
	}
	p.Update(50, 100)
	if got := visible(errs.String()); !strings.HasPrefix(got, "copying  50% |") {
		t.Errorf("shows %q", got)
	}
	p.Done()
	diff(t, "", visible(errs.String()))
	n := errs.Len()
	p.Update(60, 100)
	p.Done()
	if errs.Len() != n {
		t.Errorf("writes after Done: %q", errs.String()[n:])
	}
}

func TestProgressOfUnknownLength(t *testing.T) {
	term, errs, c := barScreen()
	p := term.Progress("reading the database")
	c.t = c.t.Add(2 * time.Second)
	p.Update(1234, 0)
	if got := visible(errs.String()); !strings.Contains(got, "reading the database") || !strings.Contains(got, "1234") {
		t.Errorf("shows %q", got)
	}
	p.Update(5, 10)
	p.Done()
	diff(t, "", visible(errs.String()))
}

func TestProgressFits(t *testing.T) {
	term, errs, c := barScreen()
	term.Width = 40
	p := term.Progress("copying the database")
	c.t = c.t.Add(2 * time.Second)
	p.Update(39, 40)
	if got := visible(errs.String()); len([]rune(got)) >= 40 {
		t.Errorf("%d columns: %q", len([]rune(got)), got)
	}
}

func TestProgressIsSilent(t *testing.T) {
	for name, set := range map[string]func(*Terminal){
		"json":   func(t *Terminal) { t.JSON = true },
		"quiet":  func(t *Terminal) { t.Quiet = true },
		"no tty": func(t *Terminal) { t.ErrTTY = false },
	} {
		term, errs, c := barScreen()
		set(term)
		p := term.Progress("copying")
		c.t = c.t.Add(time.Hour)
		p.Update(1, 2)
		p.Done()
		if errs.Len() != 0 {
			t.Errorf("%s: %q", name, errs)
		}
	}
}

func TestProgressFromSeveralGoroutines(t *testing.T) {
	term, errs, c := barScreen()
	p := term.Progress("copying")
	c.t = c.t.Add(time.Hour)
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() { p.Update(i, 10) })
	}
	wg.Wait()
	p.Done()
	diff(t, "", visible(errs.String()))
}
