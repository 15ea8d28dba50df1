package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Retry is how patiently a request is tried again.
type Retry struct {
	Attempts int           // in all; 0 means 9
	First    time.Duration // mean wait after the first failure, doubled each time; 0 means 500 ms
	Longest  time.Duration // 0 means 30 s

	// Wait waits between attempts; nil for a timer that ends with the context.
	Wait func(ctx context.Context, d time.Duration) error

	// Heard reports whether the service has ever answered; nil means that it has.
	// One that never did has probably a wrong address, and somebody waits: it is
	// tried unheard times, and no more once unheardTime is over.
	Heard func() bool
}

const (
	unheard     = 5 // with the usual waits 7 s or so
	unheardTime = 10 * time.Second
)

type again struct {
	err   error
	after time.Duration
}

func (a *again) Error() string { return a.err.Error() }
func (a *again) Unwrap() error { return a.err }

// Again marks an error after which the same may be tried once more, not before
// the given time has passed. A nil error stays nil.
func Again(err error, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &again{err, after}
}

// IsAgain reports whether an error was marked by [Again].
func IsAgain(err error) bool {
	var a *again
	return errors.As(err, &a)
}

// Do calls f, with 0 first, until it returns something else than an error marked
// by [Again], or the attempts are used up. The error it returns is the last one,
// without the mark; the end of ctx is the context's error.
func (r Retry) Do(ctx context.Context, f func(attempt int) error) error {
	began := time.Now()
	for attempt := 0; ; attempt++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := f(attempt)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var a *again
		if !errors.As(err, &a) {
			return err
		}
		if attempt+1 >= r.attempts() || r.hopeless(attempt+1, time.Since(began)) {
			return a.err
		}
		if err := r.pause(ctx, attempt, a.after); err != nil {
			return err
		}
	}
}

func (r Retry) hopeless(tries int, spent time.Duration) bool {
	return r.Heard != nil && !r.Heard() && (tries >= unheard || spent >= unheardTime)
}

func (r Retry) attempts() int {
	if r.Attempts == 0 {
		return 9
	}
	return r.Attempts
}

// backoff is between half and one and a half of the mean, so that many hosts
// that failed at once do not come back at once.
func (r Retry) backoff(attempt int) time.Duration {
	first, longest := r.First, r.Longest
	if first == 0 {
		first = 500 * time.Millisecond
	}
	if longest == 0 {
		longest = 30 * time.Second
	}
	mean := longest
	if attempt < 30 {
		mean = min(longest, first<<attempt)
	}
	return mean/2 + rand.N(mean)
}

// Pause waits as Do does after the failure of the given attempt, counted from 0.
func (r Retry) Pause(ctx context.Context, attempt int) error { return r.pause(ctx, attempt, 0) }

func (r Retry) pause(ctx context.Context, attempt int, atLeast time.Duration) error {
	d := max(r.backoff(attempt), atLeast)
	if r.Wait != nil {
		return r.Wait(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
