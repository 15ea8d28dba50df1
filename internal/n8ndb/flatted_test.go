package n8ndb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type member struct {
	Member  string
	Element int
	Text    string
}

func scanned(data []byte) []member {
	var list []member
	for _, f := range scanFlatted(data) {
		list = append(list, member{f.member, f.element, f.text(data)})
	}
	return list
}

// parsed is the same by way of a JSON parser and all objects in memory.
func parsed(data []byte) (list []member, ok bool) {
	var elements []json.RawMessage
	if json.Unmarshal(data, &elements) != nil || len(elements) == 0 {
		return nil, false
	}
	contexts, targets := map[int]bool{}, map[member]bool{}
	each := func(fn func(object int, name string, element int)) {
		for i, e := range elements {
			var o map[string]json.RawMessage
			if json.Unmarshal(e, &o) != nil {
				continue
			}
			for name, raw := range o {
				var s string
				if json.Unmarshal(raw, &s) != nil {
					continue
				}
				if n, err := strconv.Atoi(s); err == nil && n >= 0 && len(raw) <= 12 {
					fn(i, name, n)
				}
			}
		}
	}
	each(func(_ int, name string, n int) {
		if name == "runtimeData" || name == "executionContext" {
			contexts[n] = true
		}
	})
	each(func(object int, name string, n int) {
		if n >= len(elements) {
			return
		}
		var s string
		if json.Unmarshal(elements[n], &s) != nil || s == "" || elements[n][0] != '"' {
			return
		}
		switch name {
		case "credentials", "secureArtifacts":
			if contexts[object] {
				targets[member{name, n, s}] = true
			}
		case "encryptedMetadata":
			targets[member{name, n, s}] = true
		}
	})
	for m := range targets {
		list = append(list, m)
	}
	return list, true
}

func sorted(list []member) []member {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b member) int {
		return strings.Compare(fmt.Sprintf("%09d%s", a.Element, a.Member), fmt.Sprintf("%09d%s", b.Element, b.Member))
	})
	return list
}

func TestScanFlatted(t *testing.T) {
	for name, c := range map[string]struct {
		data string
		want []member
	}{
		"runtime data": {`[{"executionData":"1"},{"runtimeData":"2"},{"version":1,"credentials":"3"},"U2F"]`, []member{{"credentials", 3, "U2F"}}},
		"white space":  {" [ { \"runtimeData\" : \"1\" } ,\n\t{ \"secureArtifacts\" : \"2\" } , \"x\" ] ", []member{{"secureArtifacts", 2, "x"}}},
		"parent, reference backwards": {`["p",{"executionContext":"2"},{"credentials":"0","secureArtifacts":"0"}]`,
			[]member{{"credentials", 0, "p"}, {"secureArtifacts", 0, "p"}}},
		"one string twice":     {`[{"runtimeData":"1","executionContext":"2"},{"credentials":"3"},{"credentials":"3"},"s"]`, []member{{"credentials", 3, "s"}}},
		"metadata anywhere":    {`[{"encryptedMetadata":"1"},"m"]`, []member{{"encryptedMetadata", 1, "m"}}},
		"a node's credentials": {`[{"runtimeData":"1"},{"credentials":"2"},{"httpHeaderAuth":"3"},{"id":"4"},"x"]`, nil},
		"a user's credentials": {`[{"json":"1"},{"credentials":"2"},"secret"]`, nil},
		"escapes":              {`[{"a\\":"1","runtimeData":"1"},{"credentials":"2"},"a\"b\\\u00e9"]`, []member{{"credentials", 2, `a"b\é`}}},
		"tricky strings":       {`["\\\\","\"]{","[\\\"",{"runtimeData":"4"},{"credentials":"5"},"v"]`, []member{{"credentials", 5, "v"}}},
		"literals":             {`[{"runtimeData":"1"},{"a":null,"credentials":"2","b":-1.5e3},"v",true,12,null]`, []member{{"credentials", 2, "v"}}},
		"last member bare":     {`[{"runtimeData":"1"},{"credentials":"2","version":1},"v"]`, []member{{"credentials", 2, "v"}}},
		"empty string":         {`[{"runtimeData":"1"},{"credentials":"2"},""]`, nil},
		"out of range":         {`[{"runtimeData":"1"},{"credentials":"99"}]`, nil},
		"cut off":              {`[{"runtimeData":"1"},{"credentials":"2"},"U2Fsd`, nil},
		"cut off after":        {`[{"runtimeData":"1"},{"credentials":"2"},"v",{"x`, []member{{"credentials", 2, "v"}}},
		"not flatted":          {`{"credentials":"U2F","runtimeData":{}}`, nil},
		"empty":                {``, nil},
	} {
		if diff := cmp.Diff(c.want, scanned([]byte(c.data))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestBundleData(t *testing.T) {
	inner := `[{"runtimeData":"1","text":"é \"q\" \\ 🔐"},{"credentials":"2"},"U2F/x"]`
	doc, err := json.Marshal(map[string]any{"data": inner, "workflowData": map[string]any{"data": "no"}, "version": 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{
		"go":      string(doc),
		"escapes": strings.NewReplacer("é", `\u00e9`, "🔐", `\ud83d\udd10`, "U2F/x", `U2F\/x`).Replace(string(doc)),
		"indent":  "{\n \"version\": 1,\n \"data\" : " + strconv.Quote(`[1]`) + "}",
	} {
		got := string(bundleData([]byte(b)))
		if want := map[string]string{"indent": "[1]"}[name]; want != "" && got != want || want == "" && got != inner {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, b := range []string{"", "[]", `{"data":1}`, `{"data":"x`, `{"other":"x"}`} {
		if got := bundleData([]byte(b)); got != nil {
			t.Errorf("%q has data %q", b, got)
		}
	}
}

func FuzzScanFlatted(f *testing.F) {
	f.Add([]byte(`[{"executionData":"1"},{"runtimeData":"2"},{"version":1,"credentials":"3"},"U2F"]`))
	f.Add([]byte(`["p",{"executionContext":"2"},{"credentials":"0","secureArtifacts":"0"},{"encryptedMetadata":"0"}]`))
	f.Add([]byte(`[{"a\\":"1","runtimeData":"1"},{"credentials":"2"},"a\"b\\\u00e9",[],[["x"]],1.5,null]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := scanned(data) // never panics
		// Names spelt with escapes, and a name twice in an object, are not n8n's.
		if bytes.Contains(data, []byte(`\u`)) || bytes.Count(data, []byte(`"`)) > 60 || duplicates(data) {
			return
		}
		want, ok := parsed(data)
		if !ok {
			return
		}
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%q: %s", data, diff)
		}
	})
}

func duplicates(data []byte) bool {
	for _, name := range []string{"credentials", "secureArtifacts", "encryptedMetadata", "runtimeData", "executionContext"} {
		d := json.NewDecoder(bytes.NewReader(data))
		n := 0
		for {
			token, err := d.Token()
			if err != nil {
				break
			}
			if s, ok := token.(string); ok && s == name {
				n++
			}
		}
		if n > 1 {
			return true
		}
	}
	return false
}

func BenchmarkScanFlatted(b *testing.B) {
	var data bytes.Buffer
	data.WriteString(`[{"runtimeData":"1"},{"credentials":"2"},"` + sampleCBC + `"`)
	for i := 3; data.Len() < 16<<20; i += 2 {
		fmt.Fprintf(&data, `,{"json":"%d","pairedItem":{"item":0},"name":"%d"},"a string of some length with a word or two, and \"quotes\""`, i+1, i+1)
	}
	data.WriteByte(']')
	b.SetBytes(int64(data.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if len(scanFlatted(data.Bytes())) != 1 {
			b.Fatal("not found")
		}
	}
}
