package rotate

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// BenchmarkRun rotates 10,000 credentials of about 300 bytes, with everything that
// belongs to it but the backup and n8n itself: pre-images, proofs, sweep, verification.
// N8KEEP_SOAK=1 makes it 100,000. The step apply is reported by itself; its floor is
// BenchmarkRewrite of n8ndb.
func BenchmarkRun(b *testing.B) {
	rows := 10_000
	if os.Getenv("N8KEEP_SOAK") != "" {
		rows *= 10
	}
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		b.Run(strings.TrimPrefix(name, "2.41.1-")+fmt.Sprintf("/%d", rows), func(b *testing.B) {
			base := newPlainBase(b, name)
			v, err := base.f.Key.EncryptCBC([]byte(`{"clientId":"client","clientSecret":"` + strings.Repeat("s", 40) + `","oauthTokenData":{"access_token":"` + strings.Repeat("t", 120) + `"}}`))
			if err != nil {
				b.Fatal(err)
			}
			base.f.Exec(b, base.at, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $2)
				INSERT INTO credentials_entity (id, name, type, data) SELECT 'bench' || i, 'bench', 'oAuth2Api', $1 FROM n`, v.String(), rows)
			b.ReportAllocs()
			var apply float64
			for b.Loop() {
				b.StopTimer()
				j := base.world(b)
				j.Do = "run"
				cfg := j.mustConfig(b)
				b.StartTimer()
				r, err := Run(b.Context(), cfg)
				if err != nil || r.Journal.Values < int64(rows) {
					b.Fatal(err)
				}
				step := r.Journal.Step(StepApply)
				apply += step.Ended.Sub(step.Begun).Seconds()
			}
			b.ReportMetric(apply*1000/float64(b.N), "apply-ms/op")
		})
	}
}
