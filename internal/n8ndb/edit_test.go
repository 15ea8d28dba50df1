package n8ndb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func catalogued1(t testing.TB, ids ...PlaceID) (places []Place) {
	t.Helper()
	for _, id := range ids {
		p, ok := Catalogued(id)
		if !ok {
			t.Fatalf("no place %q", id)
		}
		places = append(places, p)
	}
	return places
}

// sealed1 is what a test makes of a value, in the same alphabet.
func sealed1(text string) string { return "<" + strings.ToUpper(text) + ">" }

func TestEditColumn(t *testing.T) {
	const oidc, https = "settings[features.oidc].clientSecret", "settings[features.sourceControl.httpsCredentials]."
	for _, tt := range []struct {
		name   string
		places []PlaceID
		column string
		want   string
		seen   string // values with their suffixes
	}{
		{"whole", []PlaceID{"credentials_entity.data"}, "abc", "<ABC>", "abc"},
		{"empty", []PlaceID{"credentials_entity.data"}, "", "", ""},
		{"whole with a comma", []PlaceID{"credentials_entity.data"}, "a,b", "<A,B>", "a,b"},
		{"list", []PlaceID{"user.mfaRecoveryCodes"}, "a,,b,", "<A>,,<B>,", "a#0 b#2"},
		{"member", []PlaceID{oidc}, `{"a":1,"clientSecret":"x","b":[]}`, `{"a":1,"clientSecret":"<X>","b":[]}`, "x"},
		{"odd spacing", []PlaceID{oidc}, "\n\t { \"clientSecret\"\r\n:  \"x\"\t}  \n", "\n\t { \"clientSecret\"\r\n:  \"<X>\"\t}  \n", "x"},
		{"only the last of two", []PlaceID{oidc}, `{"clientSecret":"x","clientSecret":"y"}`, `{"clientSecret":"x","clientSecret":"<Y>"}`, "y"},
		{"null after a value", []PlaceID{oidc}, `{"clientSecret":"x","clientSecret":null}`, `{"clientSecret":"x","clientSecret":null}`, ""},
		{"escaped name", []PlaceID{oidc}, `{"client\u0053ecret":"x"}`, `{"client\u0053ecret":"<X>"}`, "x"},
		{"escaped value", []PlaceID{oidc}, `{"clientSecret":"\u0078\/\n\"\\"}`, `{"clientSecret":"<X/\n\"\\>"}`, "x/\n\"\\"},
		{"unicode around", []PlaceID{oidc}, `{"ü":"\ud83d\ude00","clientSecret":"ü","z":"😀"}`, `{"ü":"\ud83d\ude00","clientSecret":"<Ü>","z":"😀"}`, "ü"},
		{"member of a member", []PlaceID{oidc}, `{"x":{"clientSecret":"y"}}`, `{"x":{"clientSecret":"y"}}`, ""},
		{"in a text", []PlaceID{oidc}, `{"x":"\"clientSecret\":\"y\""}`, `{"x":"\"clientSecret\":\"y\""}`, ""},
		{"empty member", []PlaceID{oidc}, `{"clientSecret":""}`, `{"clientSecret":""}`, ""},
		{"no object", []PlaceID{oidc}, `null`, `null`, ""},
		{"last bare word", []PlaceID{oidc}, `{"clientSecret":"x","b":true }`, `{"clientSecret":"<X>","b":true }`, "x"},
		{"two members", []PlaceID{https + "encryptedUsername", https + "encryptedPassword"},
			`{"encryptedPassword":"p","x":1,"encryptedUsername":"u"}`, `{"encryptedPassword":"<P>","x":1,"encryptedUsername":"<U>"}`, "u p"},
		{"flatted", []PlaceID{"execution_data.data[credentials]", "execution_data.data[secureArtifacts]"},
			`[{"runtimeData":"1"}, {"credentials":"2","secureArtifacts": "3"},"c\u0061","s"]`,
			`[{"runtimeData":"1"}, {"credentials":"2","secureArtifacts": "3"},"<CA>","<S>"]`, "ca#2 s#3"},
		{"one string for two members", []PlaceID{"execution_data.data[credentials]", "execution_data.data[secureArtifacts]"},
			`[{"runtimeData":"1"},{"credentials":"2","secureArtifacts":"2"},"c"]`,
			`[{"runtimeData":"1"},{"credentials":"2","secureArtifacts":"2"},"<C>"]`, "c#2 c#2"},
		{"flatted that ends early", []PlaceID{"execution_data.data[credentials]"}, `[{"runtimeData":"1"},{"credentials":"2"},"c",{"a`,
			`[{"runtimeData":"1"},{"credentials":"2"},"<C>",{"a`, "c#2"},
		{"no flatted JSON", []PlaceID{"execution_data.data[credentials]"}, `"credentials"`, `"credentials"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			places := catalogued1(t, tt.places...)
			var seen []string
			got, err := EditColumn(places, tt.column, func(p *Place, v ColumnValue) (string, bool, error) {
				if v.Problem != "" {
					t.Errorf("problem %q", v.Problem)
				}
				seen = append(seen, v.Text+v.Suffix)
				return sealed1(v.Text), true, nil
			})
			if err != nil || got != tt.want || strings.Join(seen, " ") != tt.seen {
				t.Errorf("got %s, saw %q, %v\nwant %s, %q", got, seen, err, tt.want, tt.seen)
			}
			same, err := EditColumn(places, tt.column, func(*Place, ColumnValue) (string, bool, error) { return "ignored", false, nil })
			if err != nil || same != tt.column {
				t.Errorf("what stays as it is became %s, %v", same, err)
			}
		})
	}
}

// TestEditOnlyOne: a sealer that changes one value of several leaves the others alone.
func TestEditOnlyOne(t *testing.T) {
	places := catalogued1(t, "user.mfaRecoveryCodes")
	got, err := EditColumn(places, "a,b,c", func(_ *Place, v ColumnValue) (string, bool, error) { return "x", v.Text == "b", nil })
	if err != nil || got != "a,x,c" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEditProblems(t *testing.T) {
	oidc := catalogued1(t, "settings[features.oidc].clientSecret")
	for column, want := range map[string]Problem{`[]`: Malformed, `{"clientSecret":`: Malformed, ` x`: Malformed, `"clientSecret"`: Malformed,
		`{"clientSecret":1}`: NotCiphertext, `{"clientSecret":{"clientSecret":"x"}}`: NotCiphertext} {
		seen := 0
		got, err := EditColumn(oidc, column, func(_ *Place, v ColumnValue) (string, bool, error) {
			seen++
			if v.Problem != want {
				t.Errorf("%s: problem %q, want %q", column, v.Problem, want)
			}
			return "", false, nil
		})
		if got != column || err != nil || seen != 1 {
			t.Errorf("%s became %s, %v; seen %d", column, got, err, seen)
		}
		_, err = EditColumn(oidc, column, func(*Place, ColumnValue) (string, bool, error) { return "x", true, nil })
		if !errors.Is(err, errNoValue) || err.Error() != `changing a value of "settings[features.oidc].clientSecret": there is no value that could be replaced` {
			t.Errorf("%s: %v", column, err)
		}
	}
	for text, want := range map[string]string{
		"":      `changing a value of "user.mfaRecoveryCodes": the new text is empty`,
		"a,b":   `changing a value of "user.mfaRecoveryCodes": the new text has a comma, which ends a value of a list`,
		"a\x00": `changing a value of "user.mfaRecoveryCodes": the new text is no text that a database takes`,
		"\xff":  `changing a value of "user.mfaRecoveryCodes": the new text is no text that a database takes`,
	} {
		_, err := EditColumn(catalogued1(t, "user.mfaRecoveryCodes"), "x", func(*Place, ColumnValue) (string, bool, error) { return text, true, nil })
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
	stop := errors.New("stop")
	if _, err := EditColumn(oidc, `{"clientSecret":"x"}`, func(*Place, ColumnValue) (string, bool, error) { return "", true, stop }); err != stop {
		t.Errorf("a sealer's error became %v", err)
	}
	if _, err := EditColumn(catalogued1(t, "credentials_entity.data", "user.mfaRecoveryCodes"), "x", func(*Place, ColumnValue) (string, bool, error) { return "", false, nil }); err == nil {
		t.Error("places of different columns were taken")
	}
}

const bundlePlaces = 3

func TestEditBundle(t *testing.T) {
	places := catalogued1(t, "bundle.json[credentials]", "bundle.json[secureArtifacts]", "bundle.json[encryptedMetadata]")
	if len(places) != bundlePlaces {
		t.Fatal("places are missing")
	}
	flatted := `[{"runtimeData":"1","ü":"4"},{"credentials":"2","secureArtifacts":"3"},"c/1+=","s2","😀 \"x\"\n"]`
	want := `[{"runtimeData":"1","ü":"4"},{"credentials":"2","secureArtifacts":"3"},"<C/1+=>","<S2>","😀 \"x\"\n"]`
	quoted := func(s string) string { return string(appendJSON(nil, s)) }
	all := func(s string) string { // every character escaped
		var b strings.Builder
		for _, r := range s {
			if r > 0xffff {
				r -= 0x10000
				fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+r>>10, 0xdc00+r&0x3ff)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		}
		return `"` + b.String() + `"`
	}
	for name, tt := range map[string]struct{ file, want string }{
		"as n8n writes it": {`{"data":` + quoted(flatted) + `,"workflowData":{},"version":1}`, `{"data":` + quoted(want) + `,"workflowData":{},"version":1}`},
		"odd spacing":      {" {\n\"a\" : 1 , \"data\"\t: " + quoted(flatted) + " }\n", " {\n\"a\" : 1 , \"data\"\t: " + quoted(want) + " }\n"},
		"all escaped":      {`{"data":` + all(flatted) + `}`, `{"data":` + strings.NewReplacer(all(`"c/1+="`)[1:1+7*6], `\"<C/1+=>\"`, all(`"s2"`)[1:1+4*6], `\"<S2>\"`).Replace(all(flatted)) + `}`},
		"the last of two":  {`{"data":` + quoted(flatted) + `,"data":` + quoted(flatted) + `}`, `{"data":` + quoted(flatted) + `,"data":` + quoted(want) + `}`},
		"no data":          {`{"workflowData":{}}`, `{"workflowData":{}}`},
		"no text":          {`{"data":{"credentials":"x"}}`, `{"data":{"credentials":"x"}}`},
		"no object":        {`[]`, `[]`},
		"empty":            {``, ``},
		"ends early":       {`{"data":"[`, `{"data":"[`},
	} {
		t.Run(name, func(t *testing.T) {
			before := strings.Clone(tt.file)
			got, err := editBundle(places, []byte(tt.file), func(_ *Place, v ColumnValue) (string, bool, error) { return sealed1(v.Text), true, nil })
			if diff := cmp.Diff(tt.want, string(got)); diff != "" || err != nil {
				t.Errorf("%v %s", err, diff)
			}
			same, err := editBundle(places, []byte(tt.file), func(*Place, ColumnValue) (string, bool, error) { return "", false, nil })
			if string(same) != before || tt.file != before || err != nil {
				t.Errorf("what stays as it is became %s, %v", same, err)
			}
			if strings.Contains(name, "no") || name == "empty" || name == "ends early" {
				return
			}
			if !json.Valid(got) {
				t.Error("no JSON any more")
			}
		})
	}
}

// edited are all containers, for the fuzzer.
func edited(t testing.TB) [][]Place {
	return [][]Place{
		catalogued1(t, "credentials_entity.data"),
		catalogued1(t, "user.mfaRecoveryCodes"),
		catalogued1(t, "settings[features.sourceControl.httpsCredentials].encryptedUsername", "settings[features.sourceControl.httpsCredentials].encryptedPassword"),
		catalogued1(t, "execution_data.data[credentials]", "execution_data.data[secureArtifacts]"),
	}
}

// FuzzEditColumn: nothing changes what is left alone; values that are replaced are
// found again in their places, and replacing them by what they were gives values that
// were there.
func FuzzEditColumn(f *testing.F) {
	for _, seed := range []string{
		"", "abc", "a,,b", `{"encryptedUsername":"u","encryptedPassword":"p"}`, "{ \"encryptedUsername\" : \"\\u0075\" ,\n\"encryptedUsername\":\"é\"}",
		`{"encrypted\u0050assword":"😀","a":[{"encryptedPassword":"no"}],"b":tru`, `[{"runtimeData":"1"},{"credentials":"2","secureArtifacts":"2"},"c\"\\"]`,
		`[{"executionContext":"1","x":-1.5e3},{"credentials":"3","encryptedMetadata":"2"},"` + sampleCBC + `","\ud83d\ude00"]`, `{"data":"[]"}`, `null`, `"x"`, `{"encryptedPassword":{}}`,
	} {
		for i := range 4 {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, which int, column string) {
		all := edited(t)
		places := all[((which%len(all))+len(all))%len(all)]
		values := func(column string) (list []ColumnValue) {
			same, err := EditColumn(places, column, func(_ *Place, v ColumnValue) (string, bool, error) {
				v.start, v.end = 0, 0
				list = append(list, v)
				return "x", false, nil
			})
			if err != nil || same != column {
				t.Fatalf("%q became %q, %v", column, same, err)
			}
			return list
		}
		before := values(column)
		const fresh = "U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRStCPaXwnR4pOofgnD1Hw0hAxnJoGtKq+lO2UkF2+PLFQ=="
		changed, err := EditColumn(places, column, func(_ *Place, v ColumnValue) (string, bool, error) { return fresh, v.Problem == "", nil })
		if err != nil {
			t.Fatal(err)
		}
		after := values(changed)
		want := slices.Clone(before)
		for i := range want {
			if want[i].Problem == "" {
				want[i].Text = fresh
			}
		}
		if diff := cmp.Diff(want, after, cmp.AllowUnexported(ColumnValue{})); diff != "" {
			t.Fatalf("%q became %q: %s", column, changed, diff)
		}
		if len(before) == 0 && changed != column {
			t.Fatalf("%q became %q without a value", column, changed)
		}
	})
}

// FuzzEditBundle: a bundle's text is edited as the flatted JSON in it is.
func FuzzEditBundle(f *testing.F) {
	for _, seed := range []string{`{"data":"[{\"runtimeData\":\"1\"},{\"credentials\":\"2\"},\"c\"]"}`, `{"data":"\u005b{\"runtimeData\":\"1\"},{\"credentials\":\"2\"},\u0022\ud83d\ude00\u0022]"}`,
		`{"data":"\ud83d[\"`, `{"data":"\x","data":""}`, `{"data":"[{\"executionContext\":\"1\"},{\"secureArtifacts\":\"2\",\"credentials\":\"2\"},\"\\\\\\\"\"]"} `} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		places := catalogued1(t, "bundle.json[credentials]", "bundle.json[secureArtifacts]", "bundle.json[encryptedMetadata]")
		seal := func(_ *Place, v ColumnValue) (string, bool, error) { return "new", len(v.Text)%2 == 0, nil }
		before := bytes.Clone(file)
		got, err := editBundle(places, file, seal)
		if err != nil || !bytes.Equal(file, before) {
			t.Fatalf("%v, or the file was changed", err)
		}
		flatted := slices.Clone(places)
		for i := range flatted {
			flatted[i].Container = Flatted
		}
		want, err := EditColumn(flatted, string(bundleData(bytes.Clone(file))), seal)
		if err != nil {
			t.Fatal(err)
		}
		if have := string(bundleData(bytes.Clone(got))); have != want {
			t.Fatalf("%q became %q, with %q, want %q", before, got, have, want)
		}
	})
}
