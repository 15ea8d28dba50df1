package blob

import (
	"context"
	"slices"
	"time"
)

// Role is what an identity is for. Each has the least it needs.
type Role string

const (
	Writer   Role = "writer"   // takes backups: put, with retention, and nothing else
	Restorer Role = "restorer" // lists, verifies and restores
	Pruner   Role = "pruner"   // lists, and deletes what retention no longer holds
)

// Roles are all of them.
func Roles() []Role { return []Role{Writer, Restorer, Pruner} }

// Capability is something an identity may be able to do in a store.
type Capability string

const (
	CanPut           Capability = "put"
	CanGet           Capability = "get"
	CanList          Capability = "list"
	CanOverwrite     Capability = "overwrite"         // change what a name yields; hiding it behind a newer version does not count
	CanDelete        Capability = "delete"            // make an object unreadable; hiding it does not count
	CanHide          Capability = "hide"              // put a newer version or a delete marker before an object that stays readable
	CanShortenRetain Capability = "shorten retention" // make an object deletable earlier than it was put
)

// Capabilities are all of them, in the order in which people are shown them.
func Capabilities() []Capability {
	return []Capability{CanPut, CanGet, CanList, CanOverwrite, CanDelete, CanHide, CanShortenRetain}
}

// Answer is what a trial showed.
type Answer string

const (
	Yes           Answer = "yes"
	No            Answer = "no"
	NotApplicable Answer = "not applicable" // the store has no such thing
	Unknown       Answer = "unknown"        // could not be tried
)

// Trial is one capability, tried.
type Trial struct {
	Capability Capability
	Answer     Answer
	Detail     string // why, for people; no credentials
	Hint       string // the next step, when it is the store that must change and not the identity's policy; else ""
}

// Prober is a store that can find out what its identity may do.
type Prober interface {
	// Probe tries every capability with a canary object of the given name, which
	// it removes again where it can; where it cannot, the last Trial's Detail of
	// CanDelete says until when it stays. An error means that nothing could be
	// tried at all.
	Probe(ctx context.Context, name string) ([]Trial, error)
}

// Clocked is a store that can be asked for its time.
type Clocked interface {
	Clock(ctx context.Context) (time.Time, error)
}

// Need is how a role stands to a capability.
type Need string

const (
	Required Need = "required"
	Harmless Need = "harmless" // not needed, and no danger
	Excess   Need = "excess"   // must not be: somebody who steals the identity could do harm
)

// Need says whether an identity for this role must, may or must not be able to do
// something. Hiding is harmless where it is possible at all: what was put first
// stays, and is found.
func (r Role) Need(c Capability) Need {
	required := map[Role][]Capability{
		Writer:   {CanPut},
		Restorer: {CanGet, CanList},
		Pruner:   {CanGet, CanList, CanDelete},
	}
	switch {
	case slices.Contains(required[r], c):
		return Required
	case c == CanHide && r != Restorer:
		return Harmless
	}
	return Excess
}
