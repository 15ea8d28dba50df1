package cli

import (
	"sync"
	"time"

	"github.com/rivo/uniseg"
	"github.com/schollz/progressbar/v3"
)

// What is done sooner than this shows no bar: it would only flicker.
const progressDelay = time.Second

// Progress is a bar on the terminal for something that takes long. It may be
// updated by several goroutines. Where there is no terminal, or nobody wants to
// see it, it does nothing.
type Progress struct {
	mu      sync.Mutex
	term    *Terminal
	label   string
	started time.Time
	bar     *progressbar.ProgressBar
	max     int64
	silent  bool
}

// Progress returns a bar that appears once a second has passed. Only one is on
// the screen at a time; whatever else the Terminal prints removes it first.
func (t *Terminal) Progress(label string) *Progress {
	t.clearBar()
	p := &Progress{term: t, label: printable(label), started: t.now(), silent: t.JSON || t.Quiet || !t.ErrTTY}
	t.bar.Store(p)
	return p
}

// Update says how much is done, in any unit; with total 0 or less the bar only
// counts.
func (p *Progress) Update(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent || p.bar == nil && p.term.now().Sub(p.started) < progressDelay {
		return
	}
	if total <= 0 {
		total = -1
	} else {
		done = min(done, total)
	}
	if p.bar == nil || total != p.max {
		p.clear()
		p.bar, p.max = p.newBar(total), total
	}
	// A bar at its end would finish and draw itself no more.
	if done == total {
		return
	}
	p.bar.Set64(done)
}

// Done removes the bar. Later calls of Update do nothing.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.silent = true
}

func (p *Progress) clear() {
	if p.bar != nil {
		p.bar.Clear()
		p.bar = nil
	}
}

func (p *Progress) newBar(total int64) *progressbar.ProgressBar {
	// " 100% |bar|" beside the label, and a column for the cursor.
	const around = 10
	options := []progressbar.Option{
		progressbar.OptionSetWriter(p.term.Err),
		progressbar.OptionSetDescription(p.label),
		progressbar.OptionSetWidth(max(5, min(30, p.term.width()-uniseg.StringWidth(p.label)-around))),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionClearOnFinish(),
	}
	if total < 0 {
		// An interval of 0 keeps the library from drawing in a goroutine of its own.
		options = append(options, progressbar.OptionSetSpinnerChangeInterval(0), progressbar.OptionShowCount())
	}
	return progressbar.NewOptions64(total, options...)
}

// clearBar takes the bar off the screen, so that a line can be printed; the next
// Update draws it again.
func (t *Terminal) clearBar() {
	if p := t.bar.Load(); p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.clear()
	}
}
