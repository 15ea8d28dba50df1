package n8ndb

import (
	"bytes"
	"context"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/problem"
)

// PortableCredential is one credential in the format of n8n's
// "export:credentials --decrypted", which "import:credentials" takes. Owners are
// left out: their ids mean nothing elsewhere, and import gives a credential to
// whoever it is told to.
type PortableCredential struct {
	// Secret is the place, the row, and whether and how it opened.
	Secret
	// JSON is the object with data as an object: plaintext. It is nil for a
	// credential that does not open, and is overwritten when the visitor returns.
	JSON []byte
}

// credentialFields are those around data, in n8n's order.
func credentialFields() (before, after []field) {
	return []field{{"updatedAt", 't'}, {"createdAt", 't'}, {"id", 's'}, {"name", 's'}, {"description", 's'}},
		[]field{{"type", 's'}, {"isManaged", 'b'}, {"isGlobal", 'b'}, {"isResolvable", 'b'}, {"resolvableAllowFallback", 'b'}, {"resolverId", 's'}, {"usageScope", 's'}}
}

// ExportCredentials decrypts every credential and hands it to visit, by id, one at
// a time. One that does not open is handed over too, without its JSON. It needs the
// receipt of a command that is recorded as one that reveals.
func (db *DB) ExportCredentials(ctx context.Context, r audit.Receipt, k *Keyset, visit func(PortableCredential) error) error {
	if !r.Valid() {
		return &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	place, ok := Catalogued("credentials_entity.data")
	if !ok {
		return problem.New(problem.Unexpected, "the catalogue has no credentials")
	}
	return db.view(ctx, func(v *view) error {
		t := v.db.table(place.Table)
		before, after := credentialFields()
		before, exprs := v.fields(t, "t", before)
		after, more := v.fields(t, "t", after)
		q := query{table: t, exprs: append(append([]string{v.text(t.Column(place.Column))}, exprs...), more...)}
		return v.each(ctx, q, func(id string, cols []any) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			row := placeRow{id: id, value: textOf(cols[0])}
			if row.value == "" { // n8n takes it for an empty object, and cannot read it either
				return visit(PortableCredential{Secret: Secret{Place: place.ID, Row: id, KeyRef: KeyUnknown, Format: "none", Problem: NotCiphertext}})
			}
			s, plaintext, err := k.judge(r, &place, row)
			if err != nil {
				return err
			}
			s.Place, s.Row = place.ID, id
			c := PortableCredential{Secret: s}
			if s.Opens {
				var head, tail bytes.Buffer
				members(&head, before, cols[1:1+len(before)])
				members(&tail, after, cols[1+len(before):])
				// Grown in advance, because what it grew out of would keep the plaintext.
				c.JSON = make([]byte, 0, head.Len()+tail.Len()+len(plaintext)+len(`{,"data":,}`))
				c.JSON = append(append(append(c.JSON, '{'), head.Bytes()...), `,"data":`...)
				c.JSON = append(append(append(append(c.JSON, plaintext...), ','), tail.Bytes()...), '}')
			}
			clear(plaintext)
			err = visit(c)
			clear(c.JSON)
			return err
		})
	})
}
