package n8ndb

import "context"

// Exec runs a statement on the connection of a Writer on SQLite.
func (w *Writer) Exec(stmt string) error {
	_, err := w.tx.(*sqliteWrite).conn.ExecContext(context.Background(), stmt)
	return err
}
