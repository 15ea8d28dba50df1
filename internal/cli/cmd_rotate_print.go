package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/api"
)

func keyRefText(k api.KeyRef) string {
	if k.Path == "" {
		return k.Fingerprint
	}
	return k.Fingerprint + " from " + k.Path
}

func (c *commands) printRotationPlan(p *api.RotationPlan) {
	c.warn(p.Warnings)
	c.term.KeyValues(
		"instance", p.Instance+" ("+p.Engine+", "+n8nText(p.N8NVersion)+")",
		"database", p.Database,
		"old key", keyRefText(p.OldKey),
		"new key", keyRefText(p.NewKey),
		"backup", p.Backup,
		"n8n", p.Service,
		"on the disk", HumanBytes(p.JournalBytes)+" for the way back",
	)
	c.printPlaces(p.Places)
	c.printUnlisted(p.Unlisted)
	c.printFailures(p.Failures)
	if len(p.Derived) > 0 {
		c.term.Line("")
		c.term.Line("derived from the key:")
	}
	for _, d := range p.Derived {
		c.term.KeyValues("  "+d.Secret, derivedText(d)+": "+d.Effect)
		c.term.KeyValues("    "+d.Variable, d.Obtain)
	}
	if len(p.KeyPlaces) > 0 {
		c.term.Line("")
		c.term.Line("the key is set in:")
	}
	for _, k := range p.KeyPlaces {
		what := "n8keep changes it"
		switch k.By {
		case "user":
			what = "you change it: " + k.Do
		case "nobody":
			what = "it stays: " + k.Ignored
		}
		c.term.KeyValues("  "+strings.TrimSpace(k.Source+" "+k.Where), what)
	}
	c.list("what happens", p.Effects)
	c.printExposed(p.Exposed, p.ExposedAdvice)
	if p.LeftBehind > 0 {
		c.term.Line("")
		c.term.Line(Plural(p.LeftBehind, "finished execution") + " left under the old key: retry of these fails (--executions all takes them along)")
	}
	for _, r := range p.Refusals {
		c.term.Line("")
		c.term.KeyValues("refused", r.Message, "do", r.Hint)
	}
	c.term.Line("")
	switch {
	case len(p.Refusals) > 0:
		c.term.Line("this plan must not be carried out")
	case p.DryRun:
		c.term.Line(fmt.Sprintf("would encrypt %d of %s anew; nothing was changed", p.Change, Plural(p.Values, "value")))
	default:
		c.term.Line(fmt.Sprintf("%d of %s get new bytes", p.Change, Plural(p.Values, "value")))
	}
}

// printPlaces shows the places that hold values, and how many of these a command changes.
func (c *commands) printPlaces(places []api.RotationPlace) {
	var rows [][]string
	for _, p := range places {
		if p.Values > 0 {
			rows = append(rows, []string{p.Place, number(p.Values), number(p.Change), number(p.Unopened), keysText(p.ByKey)})
		}
	}
	if len(rows) > 0 {
		c.term.Line("")
		c.term.Table([]string{"place!", "values>", "change>", "fail>", "keys"}, rows)
	}
}

func derivedText(d api.Derived) string {
	switch d.How {
	case "rows":
		return "kept, by n8n's rows"
	case "environment":
		return "set " + d.Variable
	case "set already":
		return "kept, by " + d.Variable
	case "cannot":
		return "changes"
	case "ends":
		return "ended on purpose"
	}
	return d.How
}

// list prints sentences under a title, numbered, so that they can be ticked off.
func (c *commands) list(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	c.term.Line("")
	c.term.Line(title + ":")
	for i, l := range lines {
		c.term.Line(fmt.Sprintf("%3d. %s", i+1, l))
	}
}

func (c *commands) printExposed(list []api.Exposed, advice []string) {
	if len(list) == 0 && len(advice) == 0 {
		return
	}
	c.term.Line("")
	c.term.Line("exposed: somebody with the database and the old key has read these; replace each at its provider")
	for _, e := range list {
		box := "[ ] "
		if e.Replaced {
			box = "[x] "
		}
		what := strings.TrimSpace(e.Type + " " + e.ID)
		if e.Name != "" {
			what += " " + strconv.Quote(e.Name)
		}
		if e.Count > 1 {
			what += ", " + Plural(e.Count, "value")
		}
		c.term.KeyValues(box+what, e.Do)
		c.term.KeyValues("    used in", workflowsText(e.Workflows))
	}
	for _, a := range advice {
		c.term.Line("[ ] " + a)
	}
}

// workflowsText names those that are active first: they break, or leak, by themselves.
func workflowsText(uses []api.WorkflowUse) string {
	var active, others []string
	for _, w := range uses {
		if w.Active {
			active = append(active, w.Name+" (active)")
		} else {
			others = append(others, w.Name)
		}
	}
	return strings.Join(append(active, others...), ", ")
}

func (c *commands) printRotation(d *api.Rotation) {
	c.warn(d.Warnings)
	pairs := []string{
		"rotation", d.ID,
		"state", strings.TrimSuffix(d.State+": "+d.Situation, ": "),
		"instance", d.Instance,
		"database", d.Database,
		"old key", keyRefText(d.OldKey),
		"new key", keyRefText(d.NewKey),
		"backup", rotationBackupText(d.Backup),
		"fresh backup", rotationBackupText(d.Fresh),
	}
	if d.Values > 0 && d.Rollback == nil {
		pairs = append(pairs, "values", number(d.Values)+" have new bytes, each with the plaintext it had")
	}
	if d.Quarantine > 0 {
		pairs = append(pairs, "quarantined", Plural(d.Quarantine, "value")+" that no key opens, left as they are")
	}
	if d.LeftBehind > 0 {
		pairs = append(pairs, "left", Plural(d.LeftBehind, "finished execution")+" left under the old key, with "+Plural(d.LeftValues, "value")+": retry of these fails")
	}
	if d.LeftKeyed > 0 {
		pairs = append(pairs, "left", Plural(d.LeftKeyed, "finished execution")+" left under data keys that could be read with the old key")
	}
	if d.LeftUnseen > 0 {
		pairs = append(pairs, "left", Plural(d.LeftUnseen, "finished execution")+" in files, S3 or Azure, which nobody looked into")
	}
	if d.LeftUnread > 0 {
		pairs = append(pairs, "left", Plural(d.LeftUnread, "older finished execution")+", which nobody looked into")
	}
	if d.ExposedTotal > 0 && len(d.Exposed) == 0 && d.State == "verified" { // elsewhere a resume goes on, and afterwards there is no list
		pairs = append(pairs, "exposed", Plural(int64(d.ExposedTotal), "line")+" on the checklist, which \"n8keep rotate resume "+d.ID+"\" prints")
	}
	if r := d.Rollback; r != nil {
		pairs = append(pairs, "rolled back", fmt.Sprintf("%d as they were, %d written by n8n since and encrypted with the old key, %d deleted since", r.Restored, r.Rewritten, r.Gone))
	}
	if d.Downtime > 0 {
		pairs = append(pairs, "downtime", seconds(d.Downtime)+", from stop to healthy")
	}
	c.term.KeyValues(append(pairs, "took", secondsOrNothing(d.Seconds))...)
	var rows [][]string
	for _, s := range d.Steps {
		began := ""
		if s.Began != nil {
			began = s.Began.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{s.Step, s.State, began, secondsOrNothing(s.Seconds), s.Detail})
	}
	if len(rows) > 0 {
		c.term.Line("")
		c.term.Table([]string{"step!", "state!", "began!", "took>", "!"}, rows)
	}
	c.printFailures(d.Left)
	if d.Plan == nil { // which was shown before it was carried out
		c.printExposed(d.Exposed, d.ExposedAdvice)
	}
	c.list("to do", d.Do)
	if len(d.NeedOldKey) > 0 {
		c.term.Line("")
		c.term.Line("these archives open with the old key only, which the keyring keeps:")
		for _, k := range d.NeedOldKey {
			c.term.Line("  " + k.ID + "  " + k.Target)
		}
	}
	if len(d.Next) > 0 {
		c.term.Line("")
		for _, n := range d.Next {
			c.term.KeyValues("next", n)
		}
	}
}

func secondsOrNothing(s float64) string {
	if s == 0 {
		return ""
	}
	return seconds(s)
}

func rotationBackupText(b *api.RotationBackup) string {
	if b == nil {
		return ""
	}
	how := "found, verified before"
	if b.Taken {
		how = "taken and verified"
	}
	return b.ID + " in " + b.Target + " (" + how + ")"
}

func (c *commands) printRotations(doc *api.Rotations) {
	c.warn(doc.Warnings)
	if len(doc.Rotations) == 0 {
		c.term.Line("there is no rotation in the state folder")
		return
	}
	var rows [][]string
	for _, r := range doc.Rotations {
		rows = append(rows, []string{r.ID, r.State, r.Instance, r.OldKey.Fingerprint, r.NewKey.Fingerprint})
	}
	c.term.Table([]string{"rotation!", "state!", "instance", "old key!", "new key!"}, rows)
	open := slices.IndexFunc(doc.Rotations, func(r api.Rotation) bool { return len(r.Next) > 0 })
	if open >= 0 {
		c.term.Line("")
		for _, n := range doc.Rotations[open].Next {
			c.term.KeyValues("next", n)
		}
	}
}
