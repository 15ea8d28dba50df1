package app

import (
	"errors"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

// The hint after a target has failed repeats the targets as they were given, so
// that the copy is locked as the archive would have been.
func TestHintOfMissingTarget(t *testing.T) {
	locked := "s3://bucket/n8n?lock=compliance&retain=90d"
	stored := []backup.Stored{{Target: "s3://bucket/n8n", Err: errors.New("refused")}, {Target: "/var/backups"}, {Target: "gcs://b", Err: errors.New("gone")}}
	err := missingProblem("ID", []string{locked, "local", "gcs://b/x"}, stored)
	if problem.KindOf(err) != problem.Partial || err.Error() != `backup "ID" is good, but not in every target: s3://bucket/n8n: refused; nor in gcs://b: gone` {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"n8keep backup copy ID --target local --to '" + locked + "'", "--to gcs://b/x"} {
		if !strings.Contains(problem.HintOf(err), want) {
			t.Errorf("%q is not in %q", want, problem.HintOf(err))
		}
	}
	if err := missingProblem("ID", []string{"a"}, []backup.Stored{{Target: "/a"}}); err != nil {
		t.Errorf("got %v", err)
	}
}
