package retention

import (
	"fmt"
	"time"
)

// Clock is what is known of the time when a target is pruned. Only Local is
// always there; the others may be zero.
type Clock struct {
	Local  time.Time // this host's
	Target time.Time // the target's, where it can be asked
	Seen   time.Time // when the target was last pruned
	Newest time.Time // the newest time that the target gave an object
}

// Now is the time to decide with.
func (c Clock) Now() time.Time {
	if !c.Target.IsZero() {
		return c.Target
	}
	return c.Local
}

const (
	clockSlack = 24 * time.Hour
	clockJump  = 90 * 24 * time.Hour
)

// Implausible says in words what is wrong with the clock, "" for nothing. A clock
// that cannot be compared with the target's own counts as set forward when it is
// more than 90 days past everything seen before; it may also be that nothing ran
// for so long, which is worth a look before anything is removed.
func (c Clock) Implausible() string {
	now := c.Now()
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
	if d := c.Local.Sub(c.Target); !c.Target.IsZero() && d.Abs() > clockSlack {
		return fmt.Sprintf("this host's clock says %s, the target's %s", day(c.Local), day(c.Target))
	}
	if c.Newest.Sub(now) > clockSlack {
		return fmt.Sprintf("the clock says %s, but something in the target was stored on %s: the clock was set back, or it was ahead then", day(now), day(c.Newest))
	}
	if c.Seen.Sub(now) > clockSlack {
		return fmt.Sprintf("the clock says %s, but the target was pruned on %s: the clock was set back, or it was ahead then", day(now), day(c.Seen))
	}
	last := c.Newest
	if c.Seen.After(last) {
		last = c.Seen
	}
	if c.Target.IsZero() && !last.IsZero() && now.Sub(last) > clockJump {
		return fmt.Sprintf("the clock says %s, but the last that was seen of the target is of %s: the clock was set forward, or nothing was stored since", day(now), day(last))
	}
	return ""
}
