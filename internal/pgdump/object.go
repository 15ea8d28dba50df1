package pgdump

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
)

// rank orders objects that do not depend on each other; those from rankValue on are made after the rows are there.
type rank int

const (
	rankSchema rank = iota
	rankExtension
	rankCollation
	rankType
	rankRoutine
	rankTable
	rankSequence
	rankDefault
	rankCheck
	rankView

	rankValue
	rankIndex
	rankLateCheck
	rankForeignKey
	rankStatistics
	rankTrigger
	rankRule
	rankPolicy
	rankRefresh
)

// object is something that a script makes by one or more statements.
type object struct {
	ref
	rank  rank
	sort  string // ties of rank
	label string // for people: `table "public.workflow_entity"`
	table string // for an index: restored in parallel with those of other tables
	sql   []string
	needs []ref // besides what pg_depend knows
	late  bool  // made after the rows, because something it needs is
}

// add registers an object under the entry's ref.
func (c *catalogue) add(e *entry, r rank, name string, sql ...string) *object {
	o := &object{ref: e.ref, rank: r, sort: name, label: e.kind + " " + name, sql: sql}
	c.objects[e.ref] = o
	return o
}

// read fills objects and tables from the catalogs, and refuses what it does not understand.
func (c *catalogue) read() error {
	c.objects, c.targets = map[ref]*object{}, map[ref]string{}
	if err := c.take(); err != nil {
		return err
	}
	for _, e := range c.sorted() {
		if !understood(e.kind) {
			c.refuse("%s", e)
		}
	}
	if err := c.refuseDetails(); err != nil {
		return err
	}
	if err := c.refusal(); err != nil {
		return err
	}
	if len(c.ids("table", "view", "materialized view")) == 0 && !c.whole {
		if len(c.ids("schema")) == 0 {
			return problem.New(problem.NotFound, "the database has no schema %q", c.schema)
		}
		return problem.New(problem.NotFound, "schema %q has no tables with the prefix %q", c.schema, c.prefix)
	}
	for _, read := range []func() error{c.readTables, c.readSchemas, c.readCollations, c.readTypes, c.readRoutines, c.readSequences,
		c.readDefaults, c.readViews, c.readConstraints, c.readIndexes, c.readTriggers, c.readRules, c.readPolicies, c.readStatistics, c.readComments} {
		if err := read(); err != nil {
			return err
		}
	}
	for r, e := range c.selected {
		if c.objects[c.resolve(r)] == nil && e.kind != "index" {
			c.refuse("%s", e) // it went away since the list was made, or has a form nobody thought of
		}
	}
	return c.refusal()
}

// order sorts objects so that each comes after what it needs, otherwise by rank and name.
func (c *catalogue) order() ([]*object, error) {
	needs := map[*object]map[*object]bool{}
	wanted := map[*object][]*object{}
	link := func(from *object, to ref) {
		o := c.objects[c.resolve(to)]
		if o == nil || o == from || needs[from][o] {
			return
		}
		needs[from][o] = true
		wanted[o] = append(wanted[o], from)
	}
	for _, o := range c.objects {
		needs[o] = map[*object]bool{}
	}
	for _, o := range c.objects {
		for _, to := range o.needs {
			link(o, to)
		}
	}
	for source, targets := range c.edges {
		o := c.objects[c.resolve(source)]
		if o == nil || c.members[source] != 0 {
			continue
		}
		for _, to := range targets {
			to = c.resolve(to)
			if extension := c.members[to]; extension != 0 {
				to = ref{"pg_extension", extension}
			}
			if c.selected[to] == nil && to.class != "pg_namespace" {
				if e := c.all[to]; e != nil {
					c.refuse("%s, which needs %s outside the scope", o.label, e)
				} else {
					c.refuse("%s, which needs something outside the scope (%s %d)", o.label, to.class, to.id)
				}
			}
			link(o, to)
		}
	}
	if err := c.refusal(); err != nil {
		return nil, err
	}

	var ready queue
	for o, n := range needs {
		if len(n) == 0 {
			ready = append(ready, o)
		}
	}
	heap.Init(&ready)
	var sorted []*object
	for ready.Len() > 0 {
		o := heap.Pop(&ready).(*object)
		o.late = o.late || o.rank >= rankValue
		sorted = append(sorted, o)
		for _, w := range wanted[o] {
			w.late = w.late || o.late
			delete(needs[w], o)
			if len(needs[w]) == 0 {
				heap.Push(&ready, w)
			}
		}
	}
	if len(sorted) < len(c.objects) {
		var stuck []string
		for o, n := range needs {
			if len(n) > 0 {
				stuck = append(stuck, o.label)
			}
		}
		slices.Sort(stuck)
		return nil, problem.New(problem.Usage, "the native engine cannot dump objects that need each other: %s", strings.Join(stuck, ", ")).
			WithHint(`use "--engine pg_dump"`)
	}
	for _, o := range sorted {
		if o.late && o.rank == rankTable {
			return nil, fmt.Errorf("sorting objects: %s needs something that is made after the rows", o.label)
		}
	}
	return sorted, nil
}

// queue is a heap of objects whose needs are met.
type queue []*object

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.sort, b.sort), cmp.Compare(a.id, b.id)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*object)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	o := (*q)[last]
	*q = (*q)[:last]
	return o
}
