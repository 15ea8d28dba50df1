package blobtest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/blob"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) blob.Store { return NewMemory(nil) })
}

func TestFaultyWithoutRules(t *testing.T) {
	Run(t, func(*testing.T) blob.Store { return NewFaulty(NewMemory(nil)) })
}

func TestPutFaults(t *testing.T) {
	for _, fault := range Faults() {
		t.Run(fault.String(), func(t *testing.T) {
			m := NewMemory(nil)
			f := NewFaulty(m, Rule{Op: Put, Name: "a*", Nth: 1, Fault: fault, After: 3})
			_, err := f.Put(t.Context(), "abc", strings.NewReader("content"))
			stored := ""
			if _, statErr := m.Stat(t.Context(), "abc"); statErr == nil {
				stored = string(ReadAll(t, m, "abc"))
			}
			want := map[Fault]struct {
				err    error
				stored string
			}{
				NotStored: {ErrFault, ""}, StoredButFailed: {ErrFault, "content"}, Cut: {ErrFault, ""}, CutSilently: {nil, "con"},
				DamagedRead: {nil, "content"}, Killed: {ErrKilled, ""}, KilledAfter: {ErrKilled, "content"}, Slow: {nil, "content"},
			}[fault]
			if !errors.Is(err, want.err) || stored != want.stored {
				t.Errorf("error %v, stored %q; want %v, %q", err, stored, want.err, want.stored)
			}
			_, err = f.Stat(t.Context(), "other")
			if killed := fault == Killed || fault == KilledAfter; errors.Is(err, ErrKilled) != killed {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

func TestGetFaults(t *testing.T) {
	for _, fault := range Faults() {
		t.Run(fault.String(), func(t *testing.T) {
			m := NewMemory(nil)
			put(t, m, "a", "content")
			cause := errors.New("cause")
			waited := false
			f := NewFaulty(m, Rule{Op: Get, Nth: 2, Fault: fault, After: 3, Err: cause,
				Wait: func(context.Context) error { waited = true; return nil }})
			if got := ReadAll(t, f, "a"); string(got) != "content" {
				t.Fatalf("the first Get: %q", got)
			}
			var got []byte
			r, _, err := f.Get(t.Context(), "a")
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			want := map[Fault]struct {
				err error
				got string
			}{
				NotStored: {cause, ""}, StoredButFailed: {cause, ""}, Cut: {cause, "con"}, CutSilently: {nil, "con"},
				DamagedRead: {nil, "conuent"}, Killed: {ErrKilled, ""}, KilledAfter: {ErrKilled, ""}, Slow: {nil, "content"},
			}[fault]
			if !errors.Is(err, want.err) || string(got) != want.got || waited != (fault == Slow) {
				t.Errorf("error %v, got %q, waited %v; want %v, %q", err, got, waited, want.err, want.got)
			}
		})
	}
}

func TestOtherFaults(t *testing.T) {
	m := NewMemory(nil)
	put(t, m, "a", "")
	f := NewFaulty(m, Rule{Op: Delete, Fault: StoredButFailed}, Rule{Op: List, Fault: NotStored}, Rule{Op: Stat, Name: "b", Fault: NotStored})
	if err := f.Delete(t.Context(), "a"); !errors.Is(err, ErrFault) {
		t.Errorf("Delete: %v", err)
	}
	for _, err := range f.List(t.Context(), "p") {
		if !errors.Is(err, ErrFault) {
			t.Errorf("List: %v", err)
		}
	}
	if _, err := f.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := f.Stat(t.Context(), "b"); !errors.Is(err, ErrFault) {
		t.Errorf("Stat: %v", err)
	}
	want := []Call{{Delete, "a"}, {List, "p"}, {Stat, "a"}, {Stat, "b"}}
	if got := f.Calls(); !slices.Equal(got, want) {
		t.Errorf("calls %v", got)
	}
}

func TestTamper(t *testing.T) {
	m := NewMemory(nil)
	put(t, m, "a", "content")
	if !m.Tamper("a", func(b []byte) []byte { return b[:3] }) || m.Tamper("b", nil) {
		t.Error("Tamper's answer")
	}
	if got := ReadAll(t, m, "a"); string(got) != "con" {
		t.Errorf("holds %q", got)
	}
}
