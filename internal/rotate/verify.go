package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// look takes a census of the live database under one key, which n8n may be writing to.
func (e *engine) look(ctx context.Context, step StepName, key n8ncrypt.InstanceKey, scope n8ndb.ExecutionScope, others []n8ndb.OtherKey) (*proof, error) {
	if err := e.needStorage(); err != nil {
		return nil, err
	}
	db, err := e.read(ctx)
	if err != nil {
		return nil, err
	}
	seen := e.newProof()
	keys, err := db.KeysetOf(ctx, e.cfg.Receipt, key, others...)
	if err == nil {
		_, err = db.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: e.cfg.Receipt, Executions: scope, BundleDir: e.j.Storage,
			Digest: seen.digest, DigestPlain: true, Visit: seen.visit,
			Progress: func(table string, n int64) { e.cfg.Progress(step, table, n) }})
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	return seen, nil
}

// verify proves the live database under the new key.
func (e *engine) verify(ctx context.Context) (result, detail string, err error) {
	seen, err := e.look(ctx, StepVerify, e.cfg.New.Key, e.j.Choices.Executions, nil)
	if err == nil {
		err = e.notEmpty(seen)
	}
	if err != nil {
		return "", "", err
	}
	if seen.failed > e.j.LeftTotal {
		first := seen.left[0]
		return "", "", problem.New(problem.CheckFailed, "%d values of the live database do not open under the new key, the first one is %s in row %q (%s)",
			seen.failed-e.j.LeftTotal, first.Place, first.Row, first.Problem).
			WithHint("see whether an n8n with the old key is still running")
	}
	e.j.ChangedSince = differ(e.j.Places, seen.sums())
	var opened int64
	for _, n := range seen.byKey {
		opened += n
	}
	return Done, fmt.Sprintf("%d values open", opened), nil
}

// verifyBack proves it under the old key, the data of finished executions, too: n8n
// may have written it with the new one. What opened under no key before need not.
func (e *engine) verifyBack(ctx context.Context) (result, detail string, err error) {
	seen, err := e.look(ctx, StepRollbackVerify, e.cfg.Old.Key, n8ndb.AllExecutions, e.cfg.Others)
	if err == nil {
		err = e.notEmpty(seen)
	}
	if err != nil {
		return "", "", err
	}
	if closed := e.j.Undone.Closed; seen.failed > closed {
		first := seen.left[0]
		return "", "", problem.New(problem.CheckFailed, "%d values of the live database do not open under the old key, the first one is %s in row %q (%s)",
			seen.failed-closed, first.Place, first.Row, first.Problem).
			WithHint("see whether an n8n with the new key is still running")
	}
	e.j.ChangedSince = slices.DeleteFunc(differ(e.j.Places, seen.sums()), func(id n8ndb.PlaceID) bool {
		p, _ := n8ndb.Catalogued(id)
		return e.j.Choices.Executions != n8ndb.AllExecutions && (p.Container == n8ndb.Flatted || p.Container == n8ndb.Bundle)
	})
	return Done, "", nil
}
