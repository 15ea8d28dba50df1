package rotate

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
)

// TestAdviceIsKept: a checklist without a line is one, too, and what becomes of the data
// key is known whatever the words are.
func TestAdviceIsKept(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for _, plan := range []*Plan{
		{ExposedAdvice: []string{"look at the logs"}},
		{Exposed: []Exposed{{Kind: "credential", ID: "c1", Do: "in other words"}}, LeavesDataKey: true},
	} {
		j := b.world(t)
		cfg := j.mustConfig(t)
		cfg.Plan = plan
		if _, err := Run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		j.Do = "resume"
		r, err := j.do()
		if err != nil || r.Exposure == nil || r.Journal.Exposed != len(plan.Exposed) {
			t.Fatalf("%+v, %v", r, err)
		}
		if x := r.Exposure; len(x.List) != len(plan.Exposed) || !slices.Equal(x.Advice, plan.ExposedAdvice) || x.LeavesDataKey != plan.LeavesDataKey {
			t.Errorf("%+v", x)
		}
	}
}

// TestChecklistIsGone: a way back that was killed at its end has removed the checklist
// already, which is nothing to warn of.
func TestChecklistIsGone(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for name, kill := range map[string]string{"in applying": "preimages-complete 2", "in rollback-applied": ""} {
		j := b.world(t)
		cfg := j.mustConfig(t)
		cfg.Plan = &Plan{ExposedAdvice: []string{"look at the logs"}}
		if kill != "" {
			cfg.fault = dead(kill)
		}
		if _, err := Run(t.Context(), cfg); (err == nil) != (kill == "") {
			t.Fatalf("%s: %v", name, err)
		}
		j.Do = "rollback"
		gone := func() bool {
			_, err := os.Lstat(j.path("state", folderName, testID, exposureName))
			return errors.Is(err, fs.ErrNotExist)
		}
		if _, err := j.with(t, t.Context(), func(op, _ string) error {
			if gone() {
				return errors.New("killed by the test")
			}
			return nil
		}); err == nil {
			t.Fatalf("%s: nothing failed", name)
		}
		r, err := j.do()
		if err != nil || len(r.Warnings) > 0 {
			t.Errorf("%s: %q, %v", name, r.Warnings, err)
		}
	}
}
