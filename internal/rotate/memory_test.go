package rotate

import (
	"context"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// TestMemory: what a rotation and its rollback have in memory does not grow with the
// database.
func TestMemory(t *testing.T) {
	const most = 24 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(20)) // else most of the heap is garbage
	rows := 1600                                     // 18 MB of text
	if soak() {
		rows *= 50
	}
	b := newPlainBase(t, "2.41.1-sqlite")
	v, err := b.f.Key.EncryptCBC([]byte(`{"token":"` + strings.Repeat("x", 8000) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	b.f.Exec(t, b.at, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
		INSERT INTO credentials_entity (id, name, type, data) SELECT 'memory' || i, 'm', 'x', $1 FROM n`, v.String(), rows)
	j := b.world(t)
	for _, do := range []struct {
		name string
		run  func(context.Context, Config) (*Result, error)
	}{{"run", Run}, {"rollback", Rollback}} {
		j.Do = do.name
		cfg := j.mustConfig(t)
		var peak uint64
		cfg.Progress = func(StepName, string, int64) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
		runtime.GC()
		r, err := do.run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d values, at most %d MB of heap", do.name, r.Journal.Values, peak>>20)
		if peak > most || peak == 0 || r.Journal.Values < int64(rows) {
			t.Errorf("%s: %d bytes of heap for %d values", do.name, peak, r.Journal.Values)
		}
	}
}
