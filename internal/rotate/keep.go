package rotate

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"

	"github.com/n8keep/n8keep/internal/problem"
)

// LeftBehind counts finished executions that a rotation leaves as they are, unless all
// executions are taken along.
type LeftBehind struct {
	Executions int64 `json:"executions"` // in the database, with values under the old key
	Values     int64 `json:"values"`     // in these
	// Keyed and KeyedValues are, after a leak, those under data keys that could be read
	// with the old key.
	Keyed       int64 `json:"data_key_executions,omitempty"`
	KeyedValues int64 `json:"data_key_values,omitempty"`
	// Unseen are in files, in S3 or Azure: nobody has looked into them.
	Unseen int64 `json:"unseen,omitempty"`
	// Unread are in the database, and older than those that were counted.
	Unread int64 `json:"unread,omitempty"`
}

// Left is what a plan leaves behind; nil for nothing.
func (p *Plan) Left() *LeftBehind {
	l := LeftBehind{Executions: p.LeftBehind, Values: p.LeftValues, Keyed: p.LeftKeyed, KeyedValues: p.LeftKeyedValues, Unseen: p.LeftUnseen, Unread: p.LeftUnread}
	if l == (LeftBehind{}) {
		return nil
	}
	return &l
}

// Exposure is the checklist after a leak.
type Exposure struct {
	List   []Exposed `json:"list"`
	Advice []string  `json:"advice"`
	// LeavesDataKey: the active data key is one that could be read with the old key, and
	// stays active until somebody makes another one once the rotation is finalised.
	LeavesDataKey bool `json:"leaves_data_key,omitempty"`
}

// exposureName is the file of the checklist in the journal's folder: an age file of one
// record. It names credentials, so that it is not for everybody who may see a state.
const exposureName = "exposure.age"

// keepPlan puts into the journal what later commands say again. It comes before the
// journal itself, so that no journal is without.
func (e *engine) keepPlan() error {
	p := e.cfg.Plan
	if p == nil {
		return nil
	}
	e.j.LeftBehind = p.Left()
	if len(p.Exposed)+len(p.ExposedAdvice) == 0 {
		return nil
	}
	e.exposed = &Exposure{List: p.Exposed, Advice: p.ExposedAdvice, LeavesDataKey: p.LeavesDataKey}
	e.j.Exposed, e.j.Checklist = len(p.Exposed), true
	text, err := json.Marshal(e.exposed)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing down what was exposed")
	}
	w, err := e.createRecords(exposureName, 0)
	if err != nil {
		return err
	}
	defer w.abort()
	if err := w.record(string(text)); err != nil {
		return err
	}
	return e.commitRecords(w)
}

// readExposure reads the checklist again. A rotation goes on without it.
func (e *engine) readExposure() {
	if !e.j.Checklist || e.exposed != nil {
		return
	}
	var found Exposure
	err := e.eachRecord(exposureName, 0, func(fields []string) error {
		if len(fields) != 1 {
			return errors.New("it has a record that is none")
		}
		return json.Unmarshal([]byte(fields[0]), &found)
	})
	switch {
	case err == nil:
		e.exposed = &found
	case errors.Is(err, fs.ErrNotExist) && slices.Contains([]State{Preparing, Applying, RollbackApplied}, e.j.State):
		// A way back was killed at its end, where the files go before the state does.
	default:
		e.warn("the checklist of what was exposed cannot be read any more: %v", err)
	}
}
