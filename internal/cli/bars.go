package cli

import "sync"

// bars shows one progress bar at a time: that of the phase that reported last.
// Phases report from several goroutines.
type bars struct {
	mu    sync.Mutex
	term  *Terminal
	phase string
	bar   *Progress
}

func newBars(t *Terminal) *bars { return &bars{term: t} }

func (b *bars) update(phase string, done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar == nil {
		b.phase, b.bar = phase, b.term.Progress(phase)
	}
	// Of phases side by side the first one keeps the line until it is through.
	if phase != b.phase {
		return
	}
	b.bar.Update(done, total)
	if total > 0 && done >= total {
		b.bar.Done()
		b.bar = nil
	}
}
