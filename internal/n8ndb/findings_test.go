package n8ndb

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompareRows(t *testing.T) {
	want := []string{"-9223372036854775808", "-10", "-9", "0", "1", "9", "10", "9223372036854775807", "", "-", "-0", "-x", "007", "1/2", "10a", "a", "a/b", "ä"}
	got := slices.Clone(want)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
	slices.SortFunc(got, compareRows)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever the order things are met in, the same is told.
func TestFindingsOrder(t *testing.T) {
	var want *Census
	for seed := range uint64(5) {
		f := newFindings()
		order := rand.New(rand.NewPCG(seed, 0)).Perm(300)
		for _, i := range order {
			f.hit("b", []string{"x", "y"}[i%2], fmt.Sprint(i/2))
			f.report("t", "c", fmt.Sprint(i), i%50 == 49)
			f.report("t", "d", fmt.Sprint(i), false)
		}
		f.hit("a", "z", "1")
		got := &Census{}
		f.fill(got)
		if want == nil {
			want = got
			if len(got.NeedleHits) != 100 || got.NeedleTotal != 301 || got.NeedleHits[0] != (NeedleHit{"a", "z", "1"}) || got.NeedleHits[99] != (NeedleHit{"b", "x", "49"}) {
				t.Errorf("hits %v", got.NeedleHits)
			}
			list := []Unlisted{{"t", "c", 300, 6, "49"}, {"t", "d", 300, 0, "0"}}
			if diff := cmp.Diff(list, got.Unlisted); diff != "" {
				t.Error(diff)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// What is left of flatted JSON holds what all of it held.
func FuzzReduceFlatted(f *testing.F) {
	for _, s := range []string{
		`[{"executionData":"1"},{"runtimeData":"2"},{"credentials":"3","x":"4"},"U2FsdGVkX1","long"]`,
		`[{"encryptedMetadata":"2","y":1},{"z":null},"text",[1,2],{"executionContext":"0"}]`,
		`[{"secureArtifacts":"1","runtimeData":"0"},"a\"b",true`, `[`, `{}`, `[{"credentials":"1"},"x"]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		found := scanFlatted(data)
		reduced := reduceFlatted([]byte("before"), data)
		if len(found) == 0 {
			if reduced != nil {
				t.Fatalf("%q became %q", data, reduced)
			}
			return
		}
		if string(reduced[:6]) != "before" || !sameFlatted(found, data, reduced[6:]) {
			t.Fatalf("%q became %q", data, reduced)
		}
	})
}

func TestReduceFlattedLeavesOut(t *testing.T) {
	data := `[{"executionData":"1","rest":"5"},{"runtimeData":"2","more":"5"},{"version":1,"credentials":"3","x":"4"},"U2FsdGVkX1","long",{"json":"4"}]`
	want := `[0,{"runtimeData":"2"},{"credentials":"3"},"U2FsdGVkX1"]`
	if got := string(reduceFlatted(nil, []byte(data))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
