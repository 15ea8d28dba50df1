package blobtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"sync"

	"github.com/n8keep/n8keep/internal/blob"
)

// ErrFault is what a faulty store reports, wrapped.
var ErrFault = errors.New("injected fault")

// ErrKilled is what every call returns after a Killed fault: the process that
// used the store is gone. A test goes on with the store underneath.
var ErrKilled = errors.New("injected kill")

// Op is a method of a store.
type Op string

// The methods that can fail.
const (
	Put    Op = "Put"
	Get    Op = "Get"
	Stat   Op = "Stat"
	List   Op = "List"
	Delete Op = "Delete"
)

// Fault is a way to fail.
type Fault int

// The faults. Those of Put and Delete apply to the change, those of Get to what
// is read; List and Stat know NotStored, Killed and Slow.
const (
	NotStored       Fault = iota + 1 // an error is reported, nothing was done
	StoredButFailed                  // all was done, an error is reported
	Cut                              // Put: fails after reading After bytes, nothing stored; Get: fails after yielding After bytes
	CutSilently                      // Put stores only After bytes and reports success; Get ends after After bytes with io.EOF
	DamagedRead                      // Get: one bit of the byte at After is flipped; no error
	Killed                           // like NotStored, and every later call fails too
	KilledAfter                      // like StoredButFailed, and every later call fails too
	Slow                             // Wait is called first, then all is done as usual
)

func (f Fault) String() string {
	names := []string{"no fault", "not stored", "stored but reported failed", "cut", "cut silently", "damaged read", "killed before", "killed after", "slow"}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("fault %d", int(f))
	}
	return names[f]
}

// Faults returns every fault, for tests that go through a table of them.
func Faults() []Fault {
	return []Fault{NotStored, StoredButFailed, Cut, CutSilently, DamagedRead, Killed, KilledAfter, Slow}
}

// Rule says which call fails and how.
type Rule struct {
	Op    Op
	Name  string                      // pattern of path.Match for the object; "" for any
	Nth   int                         // the how many-th such call, from 1; 0 for every one
	Fault Fault                       //
	After int64                       // bytes, for Cut, CutSilently and DamagedRead
	Wait  func(context.Context) error // for Slow; an error ends the call
	Err   error                       // what is reported besides ErrFault; optional
}

// Call is a call that a faulty store saw.
type Call struct {
	Op   Op
	Name string // List: the prefix
}

// Faulty is a store that fails by rules. It is safe for concurrent use if the
// store underneath is.
type Faulty struct {
	store blob.Store

	mu     sync.Mutex
	rules  []Rule
	seen   []int // per rule, the matching calls
	calls  []Call
	killed bool
}

// NewFaulty wraps a store. Of several rules for one call the first counts.
func NewFaulty(store blob.Store, rules ...Rule) *Faulty {
	return &Faulty{store: store, rules: rules, seen: make([]int, len(rules))}
}

// Calls returns the calls so far.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Call(nil), f.calls...)
}

func (f *Faulty) enter(ctx context.Context, op Op, name string) (Rule, error) {
	rule, err := f.match(op, name)
	if err != nil {
		return rule, err
	}
	switch rule.Fault {
	case NotStored, Killed:
		return rule, rule.err()
	case Slow:
		if rule.Wait != nil {
			return rule, rule.Wait(ctx)
		}
	}
	return rule, nil
}

func (f *Faulty) match(op Op, name string) (Rule, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{op, name})
	if f.killed {
		return Rule{}, ErrKilled
	}
	var found Rule
	for i, r := range f.rules {
		if r.Op != op {
			continue
		}
		if r.Name != "" {
			if ok, err := path.Match(r.Name, name); err != nil || !ok {
				continue
			}
		}
		f.seen[i]++
		if found.Fault == 0 && (r.Nth == 0 || r.Nth == f.seen[i]) {
			found = r
		}
	}
	if found.Fault == Killed || found.Fault == KilledAfter {
		f.killed = true
	}
	return found, nil
}

func (r Rule) err() error {
	if r.Fault == Killed || r.Fault == KilledAfter {
		return ErrKilled
	}
	if r.Err != nil {
		return fmt.Errorf("%w: %w", ErrFault, r.Err)
	}
	return ErrFault
}

// after is the error of a call that did its work.
func (r Rule) after() error {
	if r.Fault == StoredButFailed || r.Fault == KilledAfter {
		return r.err()
	}
	return nil
}

// Properties implements [blob.Store].
func (f *Faulty) Properties() blob.Properties { return f.store.Properties() }

// Put implements [blob.Store].
func (f *Faulty) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	rule, err := f.enter(ctx, Put, name)
	if err != nil {
		return blob.Info{}, err
	}
	switch rule.Fault {
	case Cut:
		r = io.MultiReader(io.LimitReader(r, rule.After), failing{rule.err()})
	case CutSilently:
		r = io.LimitReader(r, rule.After)
	}
	info, err := f.store.Put(ctx, name, r)
	if err == nil {
		err = rule.after()
	}
	if err != nil {
		return blob.Info{}, err
	}
	return info, nil
}

// Get implements [blob.Store].
func (f *Faulty) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	rule, err := f.enter(ctx, Get, name)
	if err != nil {
		return nil, blob.Info{}, err
	}
	r, info, err := f.store.Get(ctx, name)
	if err != nil {
		return nil, blob.Info{}, err
	}
	if err := rule.after(); err != nil {
		r.Close()
		return nil, blob.Info{}, err
	}
	var content io.Reader = r
	switch rule.Fault {
	case Cut:
		content = io.MultiReader(io.LimitReader(r, rule.After), failing{rule.err()})
	case CutSilently:
		content = io.LimitReader(r, rule.After)
	case DamagedRead:
		content = &flipping{r: r, at: rule.After}
	}
	return struct {
		io.Reader
		io.Closer
	}{content, r}, info, nil
}

// Stat implements [blob.Store].
func (f *Faulty) Stat(ctx context.Context, name string) (blob.Info, error) {
	if _, err := f.enter(ctx, Stat, name); err != nil {
		return blob.Info{}, err
	}
	return f.store.Stat(ctx, name)
}

// List implements [blob.Store].
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	if _, err := f.enter(ctx, List, prefix); err != nil {
		return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, err) }
	}
	return f.store.List(ctx, prefix)
}

// Delete implements [blob.Store].
func (f *Faulty) Delete(ctx context.Context, name string) error {
	rule, err := f.enter(ctx, Delete, name)
	if err != nil {
		return err
	}
	if err := f.store.Delete(ctx, name); err != nil {
		return err
	}
	return rule.after()
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type flipping struct {
	r  io.Reader
	at int64
	n  int64
}

func (f *flipping) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if i := f.at - f.n; i >= 0 && i < int64(n) {
		p[i] ^= 1
	}
	f.n += int64(n)
	return n, err
}
