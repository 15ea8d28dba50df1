package state_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

func TestRetiredDataKeys(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	ctx := context.Background()
	for _, id := range []string{"zMhTolQAVifoGM0K", "another"} {
		if err := db.RetireDataKey(ctx, "prod", id, noon); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.RetireDataKey(ctx, "prod", "another", noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := db.RetireDataKey(ctx, "test", "third", noon); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, dir)
	got, err := db.RetiredDataKeys(ctx, "prod")
	want := map[string]time.Time{"zMhTolQAVifoGM0K": noon, "another": noon}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got, err := db.RetiredDataKeys(ctx, "nobody"); err != nil || len(got) != 0 {
		t.Errorf("%v %v", err, got)
	}
}

// TestFirstSchemaIsBroughtUpToDate: a file of the first version keeps what it holds.
func TestFirstSchemaIsBroughtUpToDate(t *testing.T) {
	dir := t.TempDir()
	first, err := os.ReadFile(filepath.Join("migrations", "0001_init.sql"))
	if err != nil {
		t.Fatal(err)
	}
	old, err := sql.Open("sqlite", "file:"+filepath.Join(dir, state.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Exec(string(first) + `;
		PRAGMA user_version = 1;
		INSERT INTO verification VALUES ('here', 'a', 'full', 'aa', 1000, 'sound')`); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	db := open(t, dir)
	if err := db.RetireDataKey(context.Background(), "prod", "key", noon); err != nil {
		t.Error(err)
	}
	all, err := db.Verifications(context.Background(), "here")
	if err != nil || len(all["a"]) != 1 {
		t.Errorf("%v %v", err, all)
	}
}

func TestRetiringWhereNothingCanBeWritten(t *testing.T) {
	db := open(t, t.TempDir())
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	err := db.RetireDataKey(context.Background(), "prod", "key", noon)
	if problem.KindOf(err) != problem.Unexpected || err == nil {
		t.Errorf("%v", err)
	}
}
