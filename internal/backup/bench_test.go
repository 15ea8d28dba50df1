package backup_test

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blob/fileblob"
	"github.com/n8keep/n8keep/internal/n8ndb"
)

// BenchmarkCreate backs up about 100 MB of finished executions to a folder;
// scripts/bench compares whole programs on larger databases.
func BenchmarkCreate(b *testing.B) {
	for _, history := range []string{"all", "none"} {
		b.Run(history, func(b *testing.B) {
			h := newHost(b, "2.41.1-sqlite", key241)
			fill(b, h.cfg.Database, 3000)
			store, err := fileblob.New(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			h.cfg.Stores = []blob.Store{store}
			h.cfg.History, err = n8ndb.ParseHistory(history)
			if err != nil {
				b.Fatal(err)
			}
			info, err := os.Stat(h.cfg.Database)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(info.Size())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := backup.Create(b.Context(), h.cfg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill adds finished executions whose data looks like n8n's.
func fill(b *testing.B, path string, executions int) {
	b.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	defer tx.Rollback()
	var workflow string
	if err := tx.QueryRow("SELECT id FROM workflow_entity LIMIT 1").Scan(&workflow); err != nil {
		b.Fatal(err)
	}
	for i := range executions {
		id := 1000 + i
		if _, err := tx.Exec(`INSERT INTO execution_entity(id, finished, mode, startedAt, stoppedAt, status, workflowId, createdAt) VALUES (?, 1, 'webhook', '2026-01-01 00:00:00.000', '2026-01-01 00:00:01.000', 'success', ?, '2026-01-01 00:00:00.000')`, id, workflow); err != nil {
			b.Fatal(err)
		}
		var data strings.Builder
		data.WriteString(`[{"version":1,"resultData":"1"}`)
		for j := range 300 {
			fmt.Fprintf(&data, `,{"name":"Customer %d","email":"user%d@example.test","order":%d,"note":"delivered to the door, paid by card, item %x"}`, i*j, j, i+j, i*7919+j*104729)
		}
		data.WriteString("]")
		if _, err := tx.Exec(`INSERT INTO execution_data(executionId, workflowData, data) VALUES (?, '{"name":"w"}', ?)`, id, data.String()); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		b.Fatal(err)
	}
}
