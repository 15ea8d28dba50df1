package backup_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestParseSample(t *testing.T) {
	for _, good := range []string{"1", "20", "5%", "0.5%", "100%", "33.333%"} {
		if _, err := backup.ParseSample(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "0", "0%", "-1", "101%", "5 %", "%", "1.5", "NaN%", "1e3", "all", "9999999999"} {
		_, err := backup.ParseSample(bad)
		if problem.KindOf(err) != problem.Usage || !strings.Contains(problem.HintOf(err), "such as 5%") {
			t.Errorf("%q: %v (hint %q)", bad, err, problem.HintOf(err))
		}
	}
}

func TestPick(t *testing.T) {
	s := newShelf(t)
	var ids []archive.ID
	for d := range 10 {
		ids = append(ids, s.add(time.Duration(d)*day))
	}
	s.addIncomplete(20 * day)
	// 0 to 4 were looked at on days that follow each other; 5 only superficially, 6
	// when there was another archive under its id.
	for i, id := range ids[:5] {
		s.remember(id, backup.Full, noon.Add(time.Duration(i-20)*day), nil)
	}
	s.remember(ids[5], backup.Quick, noon, nil)
	s.remember(ids[4], backup.Full, noon.Add(-30*day), nil) // replaces the later one
	pick := func(sample string, level backup.Level) []archive.ID {
		t.Helper()
		list, err := backup.List(t.Context(), s.store, s.trust)
		if err != nil {
			t.Fatal(err)
		}
		remembered, err := s.state.Verifications(t.Context(), "memory")
		if err != nil {
			t.Fatal(err)
		}
		sm, err := backup.ParseSample(sample)
		if err != nil {
			t.Fatal(err)
		}
		var got []archive.ID
		for _, l := range sm.Pick(list, remembered, level) {
			got = append(got, l.ID)
		}
		return got
	}
	if got := pick("100%", backup.Full); len(got) != 10 || cmp.Diff([]archive.ID{ids[4], ids[0], ids[1], ids[2], ids[3]}, got[5:]) != "" {
		t.Errorf("%v", got)
	}
	if got := pick("100", backup.Quick); len(got) != 10 || got[9] != ids[5] || cmp.Diff([]archive.ID{ids[4], ids[0], ids[1], ids[2], ids[3]}, got[4:9]) != "" {
		t.Errorf("%v", got)
	}
	for sample, want := range map[string]int{"5%": 1, "11%": 2, "50%": 5, "3": 3} {
		if got := pick(sample, backup.Secrets); len(got) != want {
			t.Errorf("%s: %v", sample, got)
		}
	}
	// Those never looked at are taken in another order each time.
	first := map[archive.ID]bool{}
	for range 200 {
		first[pick("1", backup.Secrets)[0]] = true
	}
	if len(first) < 5 {
		t.Errorf("always the same: %v", first)
	}
}
