package n8ndbtest

import "testing"

// TestSeedsAreApart: what a test does to its seed is seen by no other.
func TestSeedsAreApart(t *testing.T) {
	f := Load(t, "2.41.1-sqlite")
	_, first := f.CopySeeded(t)
	status, secret := first.Executions["waiting"], first.Secrets[0]
	first.Executions["waiting"], first.Secrets[0] = "another", Secret{}
	if _, second := f.CopySeeded(t); second.Executions["waiting"] != status || second.Secrets[0] != secret || status == "" {
		t.Errorf("%v, %+v", second.Executions, second.Secrets[0])
	}
}
