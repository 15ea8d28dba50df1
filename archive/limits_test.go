package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

// hostileArchive has no entries, and a manifest with these lists.
func hostileArchive(t *testing.T, lists string) []byte {
	t.Helper()
	h := `"format":1,"id":"20260801T020000Z-prod-k3x7qa","instance":"prod","created":"2026-08-01T02:00:00Z","key_fingerprint":"","tool":""`
	manifest := `{` + h + `,"engine":"","n8n_version":"","last_migration":"","table_prefix":"","schema":"","digest_salt":"","state":"good","unproved":false,"history":""` +
		lists + `,"entries":[],"secrets":[]}`
	stream := tarStream(t, []tarEntry{{name: headerName, body: "{" + h + "}"}, {name: manifestName, body: manifest}}, "")
	return seal(t, compress(t, stream), fuzzIdentity().Recipient())
}

func repeated(element string, n int) string {
	return strings.TrimSuffix(strings.Repeat(element+",", n), ",")
}

func TestHostileListsStayOutOfMemory(t *testing.T) {
	const heavy = "damaged: the manifest has findings, census and tables of more than 16777216 bytes"
	long := strings.Repeat("x", 1_000_000)
	for name, lists := range map[string]string{
		"long findings":   `,"findings":[` + repeated(`{"code":"`+long+`"}`, 100) + `],"census":[],"tables":[]`,
		"many findings":   `,"findings":[` + repeated(`{}`, 5_000_000) + `],"census":[],"tables":[]`,
		"many maps":       `,"findings":[],"census":[` + repeated(`{"by_key":{"":1}}`, 1_000_000) + `],"tables":[]`,
		"many tables":     `,"findings":[],"census":[],"tables":[` + repeated(`{"table":"","rows":0}`, 1_000_000) + `]`,
		"a bit of each":   `,"findings":[` + repeated(`{"code":"`+long+`"}`, 6) + `],"census":[` + repeated(`{"place":"`+long+`"}`, 6) + `],"tables":[` + repeated(`{"table":"`+long+`"}`, 6) + `]`,
		"the same, again": strings.Repeat(`,"tables":[`+repeated(`{"table":"`+long+`"}`, 4)+`]`, 10),
	} {
		t.Run(name, func(t *testing.T) {
			archive := hostileArchive(t, lists)
			before := heap()
			r, err := NewReader(bytes.NewReader(archive), t.TempDir(), fuzzIdentity())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			err = r.Verify()
			if err == nil || err.Error() != heavy || !errors.Is(err, ErrDamaged) {
				t.Errorf("got  %v\nwant %s", err, heavy)
			}
			if grown := heap() - before; grown > 40<<20 {
				t.Errorf("%d MiB of heap are kept", grown>>20)
			}
			runtime.KeepAlive(archive)
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What the Writer takes, up to the last byte, the Reader takes; one more is
// refused by Close with the reason.
func TestWriterKeepsTheLimitsOfTheManifest(t *testing.T) {
	const end = `ending archive "20260801T020000Z-prod-k3x7qa": `
	full := func(last int) []Finding { // 16 of 1 MiB each
		list := make([]Finding, 17)
		for i := range list {
			list[i].Detail = strings.Repeat("x", 1<<20-elementWeight-1000)
		}
		list[16].Detail = strings.Repeat("x", 16*1000-elementWeight+last)
		return list
	}
	const element = maxValue - len(`{"code":"","detail":""}`)
	for name, tc := range map[string]struct {
		change func(*Manifest)
		want   string // "": taken
	}{
		"full":          {func(m *Manifest) { m.Findings = full(0) }, ""},
		"too full":      {func(m *Manifest) { m.Findings = full(1) }, end + "the manifest has findings, census and tables of more than 16777216 bytes"},
		"too many":      {func(m *Manifest) { m.Tables = make([]TableCount, 16<<20/elementWeight+1) }, end + "the manifest has findings, census and tables of more than 16777216 bytes"},
		"many":          {func(m *Manifest) { m.Tables = make([]TableCount, 16<<20/elementWeight) }, ""},
		"keys":          {func(m *Manifest) { m.Census = []PlaceCount{{ByKey: manyKeys(10_000)}} }, ""},
		"too many keys": {func(m *Manifest) { m.Census = repeatCensus(PlaceCount{ByKey: manyKeys(10_000)}, 25) }, end + "the manifest has findings, census and tables of more than 16777216 bytes"},
		"long":          {func(m *Manifest) { m.Findings = []Finding{{Detail: strings.Repeat("x", element)}} }, ""},
		"too long":      {func(m *Manifest) { m.Findings = []Finding{{Detail: strings.Repeat("x", element+1)}} }, end + "a finding of the manifest has 1048577 bytes, more than 1048576"},
		"escapes":       {func(m *Manifest) { m.Findings = []Finding{{Detail: strings.Repeat("<", element/6+1)}} }, end + "a finding of the manifest has 1048577 bytes, more than 1048576"},
		"table":         {func(m *Manifest) { m.Tables = []TableCount{{Table: strings.Repeat("x", 1<<20)}} }, end + "a table of the manifest has 1048597 bytes, more than 1048576"},
		"place":         {func(m *Manifest) { m.Census = []PlaceCount{{Place: strings.Repeat("x", 1<<20)}} }, end + "a place of the census of the manifest has 1048635 bytes, more than 1048576"},
		"fields":        {func(m *Manifest) { m.Schema = strings.Repeat("x", 1<<20-500) }, ""},
		"long fields":   {func(m *Manifest) { m.Schema, m.Engine = strings.Repeat("x", 1<<19), strings.Repeat("x", 1<<19) }, end + "the fields of the manifest have "},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := newWriter(t, &out)
			m := testManifest()
			m.Findings, m.Census, m.Tables = nil, nil, nil
			tc.change(&m)
			_, err := w.Close(m)
			if tc.want != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
					t.Errorf("got  %v\nwant %s", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := read(t, out.Bytes(), fuzzIdentity()); err != nil {
				t.Errorf("what was written is not read: %v", err)
			}
		})
	}
}

func manyKeys(n int) map[string]int64 {
	m := map[string]int64{}
	for i := range n {
		m[fmt.Sprint("k", i)] = math.MaxInt32
	}
	return m
}

func repeatCensus(c PlaceCount, n int) []PlaceCount {
	list := make([]PlaceCount, n)
	for i := range list {
		list[i] = c
	}
	return list
}

// Deep names cost a map entry for each folder.
func TestFoldersAreBounded(t *testing.T) {
	w := newWriter(t, io.Discard)
	deep := strings.Repeat("/x", 500)
	want := "more than 1000000 folders"
	for i := range 3000 {
		err := w.names.add(fmt.Sprint(i) + deep)
		if err == nil {
			continue
		}
		if err.Error() != want || i < 1900 {
			t.Errorf("after %d names: %v", i, err)
		}
		return
	}
	t.Error("no limit")
}

func TestEntriesAreBounded(t *testing.T) {
	s := newNameSet()
	for i := range maxEntries {
		if err := s.add(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	want := "more than 500000 entries, or their names exceed 67108864 bytes"
	if err := s.add("more"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// An error that is kept does not keep a megabyte.
func TestNamesInErrorsAreShort(t *testing.T) {
	long := strings.Repeat("x", 500_000)
	header := tarEntry{name: headerName, body: `{"format":1,"id":"20260801T020000Z-prod-k3x7qa","instance":"prod","created":"2026-08-01T02:00:00Z","key_fingerprint":"","tool":""}`}
	_, _, err := read(t, seal(t, compress(t, tarStream(t, []tarEntry{header, {name: long}}, "")), fuzzIdentity().Recipient()), fuzzIdentity())
	var d *DamagedError
	if !errors.As(err, &d) || len(d.Name) > maxName || len(d.Error()) > 2*maxName {
		t.Errorf("got %.2000v", err)
	}
}
