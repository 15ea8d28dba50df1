package backup

import (
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

// Sample says how many archives of a target are verified: a number, or a share.
type Sample struct {
	count   int
	percent float64
}

var samplePattern = regexp.MustCompile(`^([0-9]{1,9}|[0-9]{1,3}(\.[0-9]{1,3})?%)$`)

// ParseSample reads "20" or "5%".
func ParseSample(text string) (Sample, error) {
	var s Sample
	if samplePattern.MatchString(text) {
		if share, ok := strings.CutSuffix(text, "%"); ok {
			s.percent, _ = strconv.ParseFloat(share, 64)
		} else {
			s.count, _ = strconv.Atoi(text)
		}
	}
	if s.count <= 0 && s.percent <= 0 || s.percent > 100 {
		return Sample{}, problem.New(problem.Usage, "%q is no sample", text).WithHint("it is a number of archives, such as 20, or a share of them, such as 5%%")
	}
	return s, nil
}

// of is how many of n: at least one, if there is one.
func (s Sample) of(n int) int {
	if s.percent > 0 {
		return min(n, int(math.Ceil(float64(n)*s.percent/100)))
	}
	return min(n, s.count)
}

// Pick chooses from complete archives of trusted signers those that were not
// looked at for the longest time, at the level or deeper; those never looked at come
// first, in random order. remembered is by archive id. The order is that in which
// they should be verified.
func (s Sample) Pick(list []Listed, remembered map[string][]state.Verification, level Level) []Listed {
	last := map[string]time.Time{}
	var from []Listed
	for _, l := range list {
		if !l.Trusted {
			continue
		}
		for _, v := range remembered[string(l.ID)] {
			deep, err := ParseLevel(v.Level)
			if err == nil && deep >= level && v.SHA256 == l.Sidecar.SHA256 && v.Time.After(last[string(l.ID)]) {
				last[string(l.ID)] = v.Time
			}
		}
		from = append(from, l)
	}
	n := s.of(len(from))
	rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	slices.SortStableFunc(from, func(a, b Listed) int {
		return last[string(a.ID)].Compare(last[string(b.ID)]) // never is the zero time
	})
	return from[:n]
}
