// Package n8ndb opens n8n's database, SQLite or PostgreSQL, and finds, opens and
// counts every secret in it.
//
// It knows where n8n keeps ciphertext: [Catalogue] is one table of all places
// of n8n 0.x to 2.41 and what is known of 3.0. [DB.Census] reads each of them in
// primary key order, one value at a time, opens it with a [Keyset] and tells a
// visitor about it. A sweep over all other text looks for ciphertext that the
// catalogue does not list, and for the instance key itself in any column.
//
// For a backup of PostgreSQL everything is read in one exported snapshot, the one the
// dump is made from. [DB.HistoryFilters] says which rows of it are history to leave
// out, a [RowSweeper] looks at rows while they are dumped, and a [Scratch] makes of a
// dump's rows what a census needs, so that a backup is verified without a server.
//
// Two types write. A [Writer] is one transaction with n8n stopped, for a new instance
// key. A [Swapper] changes columns beside a running n8n by compare and swap: what n8n
// saves at the same time wins. Neither deletes a row, or commits what it has not read
// back and opened.
//
// Everything else opens for reading only. On SQLite nothing is written but what
// reading a WAL needs, which is removed when it is closed; on PostgreSQL a census
// is one read-only REPEATABLE READ transaction that takes no lock beyond ACCESS
// SHARE. A running n8n is not slowed: with a rollback journal (n8n 1.x), where a
// reader holds up writers, big tables are read in short pieces.
//
// What one row holds is in memory once, whatever its size; nothing else grows with
// the database. Plaintexts are wiped after their digest was taken.
//
// Old data: a place that n8n stops using stays in the catalogue with its last
// version, so that every database once readable stays readable. A database that
// is newer than anything known is served, with a warning.
//
// Trust boundary: the database is not trusted. Its contents decide neither paths
// nor SQL beyond quoted names that the engine itself listed. The only function of
// the program that decrypts is in open.go; it demands an audit receipt, and a test
// over the whole module keeps it the only one.
package n8ndb
