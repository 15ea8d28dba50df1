// Package reencrypt moves the values of an n8n database to one key, while n8n runs:
// to a data key, which finishes what n8n's own rotation leaves lazy, or back to the
// instance key, which n8n itself cannot do.
//
// It walks through all places that n8n reads with either kind of key (credentials,
// second factors, settings, external secrets, ... and the data of executions that are
// not finished) and writes each column only if it still holds what was read, in short
// transactions. A value that n8n saves meanwhile therefore always wins; the next walk
// meets it again. It ends when a walk finds nothing to change and a census says the
// same. Every column that was written is read back and opened before it is committed,
// and the keyed digest of its plaintext is that of before. Nothing is remembered: a
// run that was killed is taken up by running it again.
//
// What is allowed depends on n8n's version, on its key rotation flag and on whether it
// runs; all combinations stand in one table, [Table]. Refused is what would leave
// values that the next start of n8n cannot read, or that n8n would undo at once.
// Values that open under no key are left as they are.
//
// Old data: databases of n8n 2.18 and later have data keys; of older ones there is
// nothing to move, and the refusal says so.
//
// Trust boundary: as [n8ndb]; keys and plaintexts do not leave it.
package reencrypt
