package archive

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
)

// ageChunk is one encrypted chunk of the payload.
const ageChunk = 64<<10 + 16

// payload is where the chunks of an age file begin: after the header's MAC line
// and the nonce.
func payload(t testing.TB, archive []byte) int {
	t.Helper()
	i := bytes.Index(archive, []byte("\n---"))
	if i < 0 {
		t.Fatal("no age header")
	}
	return i + 1 + bytes.IndexByte(archive[i+1:], '\n') + 1 + 16
}

func TestTruncation(t *testing.T) {
	id := newIdentity(t)
	archive, _ := write(t, someFiles(), 50, id.Recipient())
	start := payload(t, archive)
	borders := map[int]bool{}
	cuts := []int{0, 1, 10, start - 17, start - 16, start - 1, start, start + 1, start + 16, len(archive) - 1, len(archive) - 16, len(archive) - 17}
	for at := start; at < len(archive); at += ageChunk {
		borders[at] = true
		cuts = append(cuts, at-1, at, at+1, at+16, at+17)
	}
	if len(borders) < 4 {
		t.Fatalf("only %d chunks", len(borders))
	}
	for at := 0; at < len(archive); at += 997 {
		cuts = append(cuts, at)
	}
	for _, at := range cuts {
		if at < 0 || at >= len(archive) {
			continue
		}
		files, _, err := read(t, archive[:at], id)
		if !errors.Is(err, ErrDamaged) || files != nil {
			t.Errorf("cut at %d of %d: %v", at, len(archive), err)
			continue
		}
		if (borders[at] || at < start) && !errors.Is(err, ErrTruncated) && !strings.Contains(err.Error(), "cut short") {
			t.Errorf("cut at %d of %d: %v, want truncated", at, len(archive), err)
		}
		if borders[at] && at > start && !strings.HasSuffix(err.Error(), "the end is missing") {
			t.Errorf("cut at chunk border %d: %v", at, err)
		}
	}
}

func TestFlippedBytes(t *testing.T) {
	id := newIdentity(t)
	archive, _ := write(t, someFiles(), 50, id.Recipient())
	start := payload(t, archive)
	var at []int
	for i := range start {
		at = append(at, i)
	}
	for i := start; i < len(archive); i += 491 {
		at = append(at, i)
	}
	at = append(at, len(archive)-1)
	for _, i := range at {
		damaged := bytes.Clone(archive)
		damaged[i] ^= 1 << (i % 8)
		files, _, err := read(t, damaged, id)
		// A changed stanza cannot be told from one for somebody else.
		if files != nil || !errors.Is(err, ErrDamaged) && !(i < start && errors.Is(err, ErrNoIdentity)) {
			t.Errorf("flipped byte %d of %d: %v", i, len(archive), err)
		}
	}
}

func TestTrailingBytes(t *testing.T) {
	id := newIdentity(t)
	archive, _ := write(t, someFiles(), 1, id.Recipient())
	for _, tail := range []string{"\x00", "\n", strings.Repeat("x", 70_000), string(archive)} {
		if files, _, err := read(t, append(bytes.Clone(archive), tail...), id); !errors.Is(err, ErrDamaged) || files != nil {
			t.Errorf("%d bytes behind the end: %v", len(tail), err)
		}
	}
}

// What the outer layers let pass, the manifest catches, with these words.
func TestHostileContent(t *testing.T) {
	id := newIdentity(t)
	const h = `{"format":1,"id":"20260801T020000Z-prod-k3x7qa","instance":"prod","created":"2026-08-01T02:00:00Z","key_fingerprint":"","tool":""}`
	manifest := func(entries, rest string) string {
		return h[:len(h)-1] + `,"engine":"","n8n_version":"","last_migration":"","table_prefix":"","schema":"","digest_salt":"","state":"good","unproved":false,"history":""` +
			`,"findings":[],"census":[],"tables":[],"entries":[` + entries + `],"secrets":[]}` + rest
	}
	const (
		sumA  = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // of "a"
		listA = `{"name":"a","size":1,"sha256":"` + sumA + `","mode":"0600","mtime":"2026-08-01T02:00:00Z"}`
	)
	header := tarEntry{name: headerName, body: h}
	a := tarEntry{name: "a", body: "a"}
	last := func(text string) tarEntry { return tarEntry{name: manifestName, body: text} }
	listB := strings.Replace(strings.Replace(listA, `"a"`, `"b"`, 1), sumA, strings.Repeat("0", 64), 1)
	for name, tc := range map[string]struct {
		entries []tarEntry
		tail    string // instead of the two zero blocks
		want    string // "" for a good archive
	}{
		"good":                  {entries: []tarEntry{header, a, last(manifest(listA, ""))}},
		"no entries at all":     {want: "truncated: the compressed data end too early"},
		"no header":             {entries: []tarEntry{a, last(manifest(listA, ""))}, want: "damaged: the first entry is not a header.json"},
		"header twice":          {entries: []tarEntry{header, header, last(manifest("", ""))}, want: `damaged at entry 1: entry name "header.json" is reserved`},
		"header not JSON":       {entries: []tarEntry{{name: headerName, body: "{"}}, want: "damaged: header.json is not JSON"},
		"header of format 0":    {entries: []tarEntry{{name: headerName, body: strings.Replace(h, "1", "0", 1)}}, want: "damaged: header.json: unknown format 0"},
		"header white space":    {entries: []tarEntry{{name: headerName, body: h + "\n"}}, want: "damaged: header.json is not canonical JSON"},
		"header key twice":      {entries: []tarEntry{{name: headerName, body: `{"format":1,` + h[1:]}}, want: "damaged: header.json is not canonical JSON"},
		"header other instance": {entries: []tarEntry{{name: headerName, body: strings.Replace(h, `"prod"`, `"test"`, 1)}}, want: `damaged: header.json: the id "20260801T020000Z-prod-k3x7qa" is not of instance "test"`},
		"header large":          {entries: []tarEntry{{name: headerName, body: h + strings.Repeat(" ", maxHeader)}}, want: "damaged: the first entry is not a header.json"},
		"newer format":          {entries: []tarEntry{{name: headerName, body: `{"format":2,"new":true}`}}, want: "written in a newer format: the archive has format 2 and this version knows up to 1; use a newer n8keep"},

		"no manifest":          {entries: []tarEntry{header, a}, want: "truncated: the manifest, its last entry, is missing"},
		"checksum":             {entries: []tarEntry{header, {name: "a", body: "b"}, last(manifest(listA, ""))}, want: "damaged at entry 1 of 1: checksum differs"},
		"size":                 {entries: []tarEntry{header, {name: "a", body: "aa"}, last(manifest(listA, ""))}, want: "damaged at entry 1 of 1: size differs"},
		"mode":                 {entries: []tarEntry{header, {name: "a", body: "a", mode: 0o755}, last(manifest(listA, ""))}, want: "damaged at entry 1 of 1: mode differs"},
		"time":                 {entries: []tarEntry{header, {name: "a", body: "a", late: true}, last(manifest(listA, ""))}, want: "damaged at entry 1 of 1: time differs"},
		"entry missing":        {entries: []tarEntry{header, a, last(manifest(listA+","+listB, ""))}, want: "damaged at entry 2 of 2: the entry is missing"},
		"entry not listed":     {entries: []tarEntry{header, a, {name: "b"}, last(manifest(listA, ""))}, want: "damaged at entry 2 of 1: the manifest does not list the entry"},
		"entries swapped":      {entries: []tarEntry{header, {name: "b"}, a, last(manifest(listA+","+listB, ""))}, want: `damaged at entry 1 of 2: found "b" where the manifest lists "a"`},
		"entry twice":          {entries: []tarEntry{header, a, a, last(manifest(listA+","+listA, ""))}, want: `damaged at entry 2: entry name "a" appears twice`},
		"file and folder":      {entries: []tarEntry{header, a, {name: "a/b"}}, want: `damaged at entry 2: entry name "a/b" has a file as its folder`},
		"folder and file":      {entries: []tarEntry{header, {name: "a/b/c"}, a}, want: `damaged at entry 2: entry name "a" is also a folder`},
		"behind the manifest":  {entries: []tarEntry{header, a, last(manifest(listA, "")), a}, want: "damaged: there is more data behind the end of the tar stream"},
		"no end":               {entries: []tarEntry{header, a, last(manifest(listA, ""))}, tail: "none", want: "truncated: the tar stream ends too early"},
		"half an end":          {entries: []tarEntry{header, a, last(manifest(listA, ""))}, tail: strings.Repeat("\x00", 512), want: "truncated: the tar stream ends too early"},
		"zeros behind the end": {entries: []tarEntry{header, a, last(manifest(listA, ""))}, tail: strings.Repeat("\x00", 1536), want: "damaged: there is more data behind the end of the tar stream"},
		"something as the end": {entries: []tarEntry{header, a, last(manifest(listA, ""))}, tail: strings.Repeat("\x00", 1023) + "x", want: "damaged: the tar stream does not end after the manifest"},

		"absolute name":     {entries: []tarEntry{header, {name: "/etc/passwd"}}, want: `damaged at entry 1: entry name "/etc/passwd" is not a plain relative path`},
		"parent name":       {entries: []tarEntry{header, {name: "a/../../b"}}, want: `damaged at entry 1: entry name "a/../../b" is not a plain relative path`},
		"dot name":          {entries: []tarEntry{header, {name: "./a"}}, want: `damaged at entry 1: entry name "./a" is not a plain relative path`},
		"backslash":         {entries: []tarEntry{header, {name: `a\b`}}, want: `damaged at entry 1: entry name "a\\b" holds a backslash or a control character`},
		"terminal escape":   {entries: []tarEntry{header, {name: "a\x1b[2J"}}, want: `damaged at entry 1: entry name "a\x1b[2J" holds a backslash or a control character`},
		"symbolic link":     {entries: []tarEntry{header, {name: "a", kind: '2', link: "/etc/passwd"}}, want: "damaged at entry 1: it is not a regular file"},
		"hard link":         {entries: []tarEntry{header, {name: "a", kind: '1', link: "header.json"}}, want: "damaged at entry 1: it is not a regular file"},
		"folder":            {entries: []tarEntry{header, {name: "a/", kind: '5'}}, want: "damaged at entry 1: it is not a regular file"},
		"device":            {entries: []tarEntry{header, {name: "a", kind: '3'}}, want: "damaged at entry 1: it is not a regular file"},
		"set user id":       {entries: []tarEntry{header, {name: "a", mode: 0o4755}}, want: "damaged at entry 1: its mode 04755 has more than permission bits"},
		"time before 1970":  {entries: []tarEntry{header, {name: "a", mtime: -1}}, want: `damaged at entry 1: its tar header has an unexpected record "mtime"`},
		"time after 2242":   {entries: []tarEntry{header, {name: "a", mtime: 1 << 33, gnu: true}}, want: "damaged at entry 1: its time 8589934592 is out of range"},
		"unexpected record": {entries: []tarEntry{header, {name: "a", pax: map[string]string{"SCHILY.xattr.user.x": "y"}}}, want: `damaged at entry 1: its tar header has an unexpected record "SCHILY.xattr.user.x"`},

		"manifest white space":    {entries: []tarEntry{header, a, last(manifest(listA, " "))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest trailing":       {entries: []tarEntry{header, a, last(manifest(listA, "{}"))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest unknown field":  {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"state"`, `"more":1,"state"`, 1))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest key twice":      {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"state"`, `"state":"degraded","state"`, 1))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest list twice":     {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"tables":[]`, `"tables":[],"tables":[]`, 1))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest other case":     {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"state"`, `"State"`, 1))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest not JSON":       {entries: []tarEntry{header, a, last("{]")}, want: "damaged: the manifest is not JSON of the expected fields"},
		"manifest empty":          {entries: []tarEntry{header, a, last("")}, want: "damaged: the manifest is not JSON of the expected fields"},
		"manifest cut":            {entries: []tarEntry{header, a, last(manifest(listA, "")[:300])}, want: "damaged: the manifest is not JSON of the expected fields"},
		"manifest array":          {entries: []tarEntry{header, a, last("[]")}, want: "damaged: the manifest is not JSON of the expected fields"},
		"manifest state":          {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"good"`, `"fine"`, 1))}, want: `damaged: the manifest: unknown state "fine"`},
		"manifest other header":   {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"tool":""`, `"tool":"x"`, 1))}, want: "damaged: the manifest and header.json do not agree"},
		"manifest bad mode":       {entries: []tarEntry{header, a, last(manifest(strings.Replace(listA, "0600", "4755", 1), ""))}, want: "damaged: the manifest is not JSON of the expected fields"},
		"manifest other mode":     {entries: []tarEntry{header, a, last(manifest(strings.Replace(listA, "0600", "00600", 1), ""))}, want: "damaged: the manifest is not canonical JSON"},
		"manifest bad secret":     {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"secrets":[]`, `"secrets":[{"place":"","row":"","opens":true}]`, 1))}, want: "damaged: the manifest has a bad secret: it has no place"},
		"manifest long value":     {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"schema":""`, `"schema":"`+strings.Repeat("x", 3<<20)+`"`, 1))}, want: "damaged: the manifest has a value that is too long"},
		"manifest long key":       {entries: []tarEntry{header, a, last(`{"` + strings.Repeat("x", 3<<20) + `":1}`)}, want: "damaged: the manifest has a value that is too long"},
		"manifest many scalars":   {entries: []tarEntry{header, a, last(`{"a":"` + strings.Repeat("x", 600_000) + `","b":"` + strings.Repeat("x", 600_000) + `"}`)}, want: "damaged: the manifest has a value that is too long"},
		"manifest white deserts":  {entries: []tarEntry{header, a, last(strings.Repeat(" ", 3<<20) + manifest(listA, ""))}, want: "damaged: the manifest has a value that is too long"},
		"manifest deep nesting":   {entries: []tarEntry{header, a, last(`{"a":` + strings.Repeat("[", 100_000))}, want: "damaged: the manifest is not JSON of the expected fields"},
		"manifest secrets object": {entries: []tarEntry{header, a, last(strings.Replace(manifest(listA, ""), `"secrets":[]`, `"secrets":{}`, 1))}, want: "damaged: the manifest is not JSON of the expected fields"},
	} {
		t.Run(name, func(t *testing.T) {
			archive := seal(t, compress(t, tarStream(t, tc.entries, tc.tail)), id.Recipient())
			_, r, err := read(t, archive, id)
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || err.Error() != tc.want {
				t.Fatalf("got  %v\nwant %s", err, tc.want)
			}
			if strings.Contains(tc.want, "newer") {
				if !errors.Is(err, ErrFormat) || errors.Is(err, ErrDamaged) {
					t.Errorf("%v is not only ErrFormat", err)
				}
			} else if !errors.Is(err, ErrDamaged) || strings.HasPrefix(tc.want, "truncated") != errors.Is(err, ErrTruncated) {
				t.Errorf("%v is damage: %v, truncation: %v", err, errors.Is(err, ErrDamaged), errors.Is(err, ErrTruncated))
			}
			if r == nil {
				return
			}
			// The error stays, and nothing is given out.
			if _, again := r.Next(); again != err {
				t.Errorf("the next call: %v", again)
			}
			if m := r.Manifest(); m.ID != "" {
				t.Error("a manifest was given out")
			}
			for _, err := range r.Secrets() {
				if err == nil || !strings.Contains(err.Error(), "not read to its end") {
					t.Errorf("secrets: %v", err)
				}
			}
		})
	}
}

func TestOuterLayers(t *testing.T) {
	id := newIdentity(t)
	good := tarStream(t, []tarEntry{{name: headerName, body: "{}"}}, "")
	for name, tc := range map[string]struct {
		archive []byte
		want    string
		is      error
	}{
		"empty":            {nil, "truncated: it ends inside the age header", ErrTruncated},
		"not age":          {[]byte("PK\x03\x04 is a zip file, and long enough to be read"), "damaged: it is not an age file", ErrDamaged},
		"nothing inside":   {seal(t, nil, id.Recipient()), "truncated: the compressed data end too early", ErrTruncated},
		"not zstd":         {seal(t, good, id.Recipient()), "damaged: the compressed data are not valid", ErrDamaged},
		"not tar":          {seal(t, compress(t, bytes.Repeat([]byte("x"), 2000)), id.Recipient()), "damaged: the tar stream is not valid", ErrDamaged},
		"zstd cut":         {seal(t, compress(t, good)[:60], id.Recipient()), "truncated: the compressed data end too early", ErrTruncated},
		"zstd huge window": {seal(t, []byte("\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00"), id.Recipient()), "damaged: the compressed data need a window of more than 8388608 bytes", ErrDamaged},
		"age header long":  {append([]byte("age-encryption.org/v1\n-> X25519 "), bytes.Repeat([]byte("x"), 2<<20)...), "damaged: the age header is too long", ErrDamaged},
		"age header bad":   {[]byte("age-encryption.org/v1\n-> X25519 x\nnot base64 !\n--- abc\n" + strings.Repeat("x", 100)), "damaged: the age header was changed", ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := read(t, tc.archive, id)
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) || !errors.Is(err, tc.is) || !errors.Is(err, ErrDamaged) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestWrongIdentity(t *testing.T) {
	id, other := newIdentity(t), newIdentity(t)
	hybrid, _ := age.GenerateHybridIdentity()
	plain, _ := write(t, nil, 0, id.Recipient(), id.Recipient())
	quantum, _ := write(t, nil, 0, hybrid.Recipient())
	for _, tc := range []struct {
		archive []byte
		ids     []age.Identity
		want    string
	}{
		{plain, []age.Identity{other}, `no identity opens the archive: it is encrypted to 2 recipients of kind "x25519"`},
		{plain, []age.Identity{hybrid, other}, `no identity opens the archive: it is encrypted to 2 recipients of kind "x25519"`},
		{quantum, []age.Identity{id}, `no identity opens the archive: it is encrypted to 1 recipient of kind "mlkem768x25519"`},
		{plain, nil, "no identity opens the archive: none was given"},
	} {
		_, _, err := read(t, tc.archive, tc.ids...)
		if !errors.Is(err, ErrNoIdentity) || errors.Is(err, ErrDamaged) || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

// A store that breaks is not a damaged archive.
func TestSourceErrorIsNoDamage(t *testing.T) {
	id := newIdentity(t)
	archive, _ := write(t, someFiles(), 10, id.Recipient())
	broken := errors.New("connection reset")
	for _, at := range []int{0, 20, payload(t, archive), payload(t, archive) + 5, len(archive) / 2, len(archive)} {
		src := io.MultiReader(bytes.NewReader(archive[:at]), iotest.ErrReader(broken))
		r, err := NewReader(src, t.TempDir(), id)
		if err == nil {
			err = r.Verify()
			r.Close()
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrDamaged) || err.Error() != "reading the archive: connection reset" {
			t.Errorf("broken at %d: %v", at, err)
		}
	}
}

func TestReadersThatYieldLittle(t *testing.T) {
	id := newIdentity(t)
	archive, _ := write(t, someFiles()[:3], 10, id.Recipient())
	r, err := NewReader(iotest.OneByteReader(bytes.NewReader(archive)), t.TempDir(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(); err != nil {
		t.Error(err)
	}
	if r.Manifest().State != StateGood {
		t.Error("no manifest")
	}
}
