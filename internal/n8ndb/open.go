package n8ndb

import (
	"errors"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// sealed is something to open, and what it must turn out to be.
type sealed struct {
	as     role
	id     string // of the deployment_key row, for keys
	stored string
	shape  n8ncrypt.Shape       // for values
	under  n8ncrypt.InstanceKey // for keys
}

type role int

const (
	aValue role = iota
	aDataKey
	aLegacyKey
)

// opened is what came out. The caller wipes plaintext.
type opened struct {
	plaintext []byte
	ref       n8ncrypt.KeyRef
	data      n8ncrypt.DataKey
	legacy    n8ncrypt.InstanceKey
	wrap      n8ncrypt.WrapKind
}

var errNoReceipt = errors.New("no secret is opened before the audit event of the command is recorded")

// open is the only function of the program that decrypts n8n's data. The receipt
// says that the command was recorded first; a test keeps every other function from
// calling n8ncrypt's decryption.
func (k *Keyset) open(r audit.Receipt, s sealed) (o opened, err error) {
	if !r.Valid() {
		return o, &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	switch s.as {
	case aDataKey:
		o.data, o.wrap, err = n8ncrypt.UnwrapDataKey(s.under, s.id, s.stored)
	case aLegacyKey:
		o.legacy, o.wrap, err = n8ncrypt.UnwrapLegacyKey(s.under, s.stored)
	default:
		o.plaintext, o.ref, err = n8ncrypt.Decrypt(k.keys, s.stored, s.shape)
	}
	return o, err
}

// problemOf puts n8ncrypt's errors into the words of a census.
func problemOf(err error) Problem {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, n8ncrypt.ErrWrongKey), errors.Is(err, n8ncrypt.ErrNoKey):
		return WrongKey
	case errors.Is(err, n8ncrypt.ErrUnknownKeyID):
		return UnknownKeyID
	case errors.Is(err, n8ncrypt.ErrWrongShape):
		return WrongShape
	case errors.Is(err, n8ncrypt.ErrNotCiphertext):
		return NotCiphertext
	}
	return Malformed
}
