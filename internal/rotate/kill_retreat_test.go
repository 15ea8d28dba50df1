package rotate

import (
	"fmt"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
)

// TestKilledOnTheWayBack kills a rotation, and a rollback, that has failed and is about
// to have n8n run as before. The short form takes some points, N8KEEP_SOAK=1 all of the
// last half.
func TestKilledOnTheWayBack(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for _, do := range []string{"give up", "stay"} {
		start := func() job {
			j := b.world(t)
			if do == "stay" {
				failtest.Do(t, j)
			}
			j.Do = do
			return j
		}
		all := failtest.Points(t, start())
		step := 1
		if !soak() {
			step = len(all) / 6
		}
		for n := len(all) - 1; n > len(all)/2; n -= step {
			j := start()
			failtest.MustKill(t, j, n)
			then := []string{"rollback", "resume"}[n%2]
			where := fmt.Sprintf("%s killed at point %d of %d (%s), then %s", do, n, len(all), all[n-1], then)
			b.whole(t, j, where)
			b.finish(t, j, then, where)
			if t.Failed() {
				return
			}
		}
	}
}
