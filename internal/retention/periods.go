package retention

import (
	"fmt"
	"time"
)

// rule keeps one archive of each of count periods, or, without period, count
// archives.
type rule struct {
	name   string
	count  int
	period func(time.Time) string
}

func (p Policy) rules() []rule {
	layout := func(l string) func(time.Time) string {
		return func(t time.Time) string { return t.UTC().Format(l) }
	}
	return []rule{
		{"last", max(p.Last, 0), nil},
		{"hourly", max(p.Hourly, 0), layout("2006-01-02T15h")},
		{"daily", max(p.Daily, 0), layout("2006-01-02")},
		{"weekly", max(p.Weekly, 0), week},
		{"monthly", max(p.Monthly, 0), layout("2006-01")},
		{"yearly", max(p.Yearly, 0), layout("2006")},
	}
}

// week is the ISO week, which begins on Monday: "2026-W47".
func week(t time.Time) string {
	year, w := t.UTC().ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, w)
}
