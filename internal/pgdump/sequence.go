package pgdump

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// sequence is a sequence or what an identity column counts with.
type sequence struct {
	id                                        uint32
	schema, name, typ, persistence            string
	start, increment, minimum, maximum, cache int64
	cycle                                     bool
	owner                                     uint32 // table of the owning column; 0: none
	ownerSchema, ownerTable, ownerColumn      string
	ownerPersistence, identity                string
}

func (c *catalogue) readSequences() error {
	var all []sequence
	err := c.each("sequences", `SELECT c.oid, n.nspname::text, c.relname::text, format_type(s.seqtypid, NULL), c.relpersistence::text,
		s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
		coalesce(o.oid, 0), coalesce(tn.nspname::text, ''), coalesce(o.relname::text, ''), coalesce(a.attname::text, ''), coalesce(o.relpersistence::text, ''),
		CASE WHEN d.deptype = 'i' THEN a.attidentity::text ELSE '' END
		FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
		LEFT JOIN pg_class o ON o.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = o.relnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		WHERE c.oid = ANY($1) ORDER BY c.oid`, []any{c.ids("sequence")}, func(row pgx.CollectableRow) error {
		var s sequence
		err := row.Scan(&s.id, &s.schema, &s.name, &s.typ, &s.persistence, &s.start, &s.increment, &s.minimum, &s.maximum, &s.cache, &s.cycle,
			&s.owner, &s.ownerSchema, &s.ownerTable, &s.ownerColumn, &s.ownerPersistence, &s.identity)
		all = append(all, s)
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range all {
		full := qualified(s.schema, s.name)
		e := c.all[ref{"pg_class", s.id}]
		c.add(e, rankSequence, full, s.statements(full)...)
		c.targets[e.ref] = "SEQUENCE " + full
	}
	return c.readSequenceValues(all)
}

func (s *sequence) statements(full string) []string {
	options := fmt.Sprintf("START WITH %d INCREMENT BY %d MINVALUE %d MAXVALUE %d CACHE %d", s.start, s.increment, s.minimum, s.maximum, s.cache)
	if s.cycle {
		options += " CYCLE"
	}
	owner := qualified(s.ownerSchema, s.ownerTable)
	if s.identity != "" {
		always := "BY DEFAULT"
		if s.identity == "a" {
			always = "ALWAYS"
		}
		all := []string{"ALTER TABLE " + owner + " ALTER COLUMN " + identifier(s.ownerColumn) + " ADD GENERATED " + always +
			" AS IDENTITY (SEQUENCE NAME " + full + " " + options + ")"}
		switch {
		case s.persistence == s.ownerPersistence:
		case s.persistence == "u":
			all = append(all, "ALTER SEQUENCE "+full+" SET UNLOGGED")
		default:
			all = append(all, "ALTER SEQUENCE "+full+" SET LOGGED")
		}
		return all
	}
	create := "CREATE SEQUENCE "
	if s.persistence == "u" {
		create = "CREATE UNLOGGED SEQUENCE "
	}
	all := []string{create + full + " AS " + s.typ + " " + options}
	if s.owner != 0 {
		all = append(all, "ALTER SEQUENCE "+full+" OWNED BY "+owner+"."+identifier(s.ownerColumn))
	}
	return all
}

// readSequenceValues reads where the sequences stand. Sequences are outside transactions: they are read after the
// snapshot was taken and can only be further than its rows, never behind.
func (c *catalogue) readSequenceValues(all []sequence) error {
	if len(all) == 0 {
		return nil
	}
	var parts []string
	for _, s := range all {
		parts = append(parts, fmt.Sprintf("SELECT %d, last_value, is_called FROM %s", s.id, qualified(s.schema, s.name)))
	}
	return c.each("the values of sequences", strings.Join(parts, " UNION ALL "), nil, func(row pgx.CollectableRow) error {
		var id, value int64
		var called bool
		if err := row.Scan(&id, &value, &called); err != nil {
			return err
		}
		of := ref{"pg_class", uint32(id)}
		made := c.objects[of]
		c.objects[ref{"sequence value", of.id}] = &object{
			ref: ref{"sequence value", of.id}, rank: rankValue, sort: made.sort, label: "value of sequence " + made.sort, needs: []ref{of},
			sql: []string{fmt.Sprintf("SELECT pg_catalog.setval(%s, %d, %t)", literal(made.sort), value, called)},
		}
		return nil
	})
}
