package rotate

import (
	"fmt"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
)

// TestKilledOnTheWayBack kills a rotation, and a rollback, that has failed and is about
// to have n8n run as before. The short form takes some points of the last half, and the
// last one, on SQLite; N8KEEP_SOAK=1 all of it, on both.
func TestKilledOnTheWayBack(t *testing.T) {
	for _, name := range []string{"sqlite", "postgres"} {
		if name == "sqlite" || soak() {
			t.Run(name, func(t *testing.T) { newBase(t, engines()[name]).killedOnTheWayBack(t) })
		}
	}
	wantKinds(t)
}

func (b *base) killedOnTheWayBack(t *testing.T) {
	killed := 0
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
		half := len(all) / 2
		for _, n := range b.spread(all[half:], 2, all[len(all)-1]) {
			n += half
			j := start()
			b.mustKill(t, j, all, n)
			then := []string{"rollback", "resume"}[killed%2]
			killed++
			where := fmt.Sprintf("%s killed at point %d of %d (%s), then %s", do, n, len(all), all[n-1], then)
			b.whole(t, j, where)
			b.finish(t, j, then, where)
			if t.Failed() {
				return
			}
		}
	}
}
