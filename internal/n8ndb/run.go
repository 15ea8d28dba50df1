package n8ndb

import (
	"context"
	"slices"

	"github.com/n8keep/n8keep/internal/problem"
)

// Census reads every place of the catalogue, and with Sweep or Needle every other
// text. It returns an error only if it could not read to the end or was told to
// stop; values that do not open are part of the result.
func (db *DB) Census(ctx context.Context, cfg CensusConfig) (*Census, error) {
	switch {
	case cfg.Keys == nil:
		return nil, problem.New(problem.Unexpected, "a census needs a key set")
	case !cfg.Receipt.Valid():
		return nil, &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	c := &counter{cfg: &cfg, result: &Census{ByKey: map[string]int64{}}, places: map[PlaceID]*PlaceCount{}}
	c.sweeper = newSweeper(&cfg)
	err := db.view(ctx, func(v *view) error { return c.run(ctx, v) })
	if err != nil {
		return nil, err
	}
	for _, p := range Catalogue() {
		if n := c.places[p.ID]; n != nil {
			c.result.Places = append(c.result.Places, *n)
		}
	}
	c.sweeper.found.fill(c.result)
	return c.result, nil
}

// counter adds up one census.
type counter struct {
	cfg     *CensusConfig
	result  *Census
	places  map[PlaceID]*PlaceCount
	sweeper *sweeper
	collect func(*Place, placeRow) error // takes the values instead; optional
}

func (c *counter) progress(table string, n int64) { c.sweeper.progress(table, n) }

func (c *counter) run(ctx context.Context, v *view) error {
	catalogue := Catalogue()
	for i := 0; i < len(catalogue); {
		// Places of one flatted column stand together and are read together.
		n := 1
		for catalogue[i].flatted() && i+n < len(catalogue) && catalogue[i+n].Number == catalogue[i].Number {
			n++
		}
		group := catalogue[i : i+n]
		i += n
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.cfg.SkipPlaces && group[0].Container != Flatted {
			continue // flatted columns are swept where they are read
		}
		if c.cfg.SkipPlaces && v.pg != nil {
			continue // below, in pieces
		}
		if err := c.group(ctx, v, group); err != nil {
			return err
		}
	}
	if !c.sweeper.active() {
		return nil
	}
	return c.sweep(ctx, v)
}

func (p *Place) flatted() bool { return p.Container == Flatted || p.Container == Bundle }

func (c *counter) group(ctx context.Context, v *view, group []Place) error {
	p := group[0]
	if p.Container == Bundle {
		if c.cfg.BundleDir == "" {
			return nil
		}
	} else if v.db.table(p.Table).Column(p.Column) == nil {
		return nil // older or newer than this database
	}
	for _, p := range group {
		if c.cfg.SkipPlaces {
			break
		}
		c.places[p.ID] = &PlaceCount{ID: p.ID, ByKey: map[string]int64{}}
	}
	switch p.Container {
	case Bundle:
		return c.bundles(ctx, v, group)
	case Flatted:
		return c.executions(ctx, v, group, "")
	}
	var n int64
	err := v.place(ctx, p, func(row placeRow) error {
		if n++; n%1000 == 0 {
			c.progress(p.Table, n)
		}
		return c.count(&p, row)
	})
	if n > 0 {
		c.progress(p.Table, n)
	}
	return err
}

// count opens one value, adds it up and tells the visitor.
func (c *counter) count(p *Place, row placeRow) error {
	if c.cfg.SkipPlaces {
		return nil
	}
	if c.collect != nil {
		return c.collect(p, row)
	}
	var s Secret
	var plaintext []byte
	if row.problem != "" {
		s = Secret{KeyRef: KeyUnknown, Format: "none", Problem: row.problem}
	} else {
		var err error
		if s, plaintext, err = c.cfg.Keys.judge(c.cfg.Receipt, p, row); err != nil {
			return err
		}
	}
	s.Place, s.Row = p.ID, row.id
	if s.Opens && c.cfg.Digest != nil {
		s.Digest = c.cfg.Digest(string(p.ID), row.id, plaintext)
	}
	clear(plaintext)
	if s.Plain && c.cfg.DigestPlain {
		s.Digest = c.cfg.Digest(string(p.ID), row.id, []byte(row.value))
	}
	c.add(s)
	if c.cfg.Visit != nil {
		return c.cfg.Visit(s)
	}
	return nil
}

func (c *counter) add(s Secret) {
	n, all := c.places[s.Place], c.result
	n.Values++
	all.Values++
	switch {
	case s.Plain:
		n.Plain++
		all.Plain++
		return
	case s.Opens:
		n.Opened++
		all.Opened++
		if s.Unproved {
			all.Unproved++
		} else {
			all.Proved++
		}
		if s.Misread {
			all.MisreadTotal++
			if len(all.Misread) < listed {
				all.Misread = append(all.Misread, s)
			}
		}
	default:
		n.Failed++
		all.Failed++
		if len(all.Failures) < listed {
			all.Failures = append(all.Failures, s)
		}
	}
	n.ByKey[s.KeyRef]++
	all.ByKey[s.KeyRef]++
}

// Catalogued returns the place of an id.
func Catalogued(id PlaceID) (Place, bool) {
	list := Catalogue()
	i := slices.IndexFunc(list, func(p Place) bool { return p.ID == id })
	if i < 0 {
		return Place{}, false
	}
	return list[i], true
}
