package export

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

func TestSafe(t *testing.T) {
	for name, want := range map[string]string{
		"Orders":                        "Orders",
		"":                              "unnamed",
		" . ":                           "unnamed",
		"..":                            "unnamed",
		"../../etc/passwd":              "_.._.._etc_passwd",
		"a/b\\c:d*e?f\"g<h>i|j":         "a_b_c_d_e_f_g_h_i_j",
		".git":                          "_.git",
		"-rf":                           "_-rf",
		"~":                             "_~",
		"con":                           "con_",
		"Com1.txt":                      "Com1_.txt",
		"conference":                    "conference",
		"tab\there\nnew\x00":            "tab_here_new_",
		"right\u202eto left":            "right_to left",
		"e\u0301":                       "é",
		"日本 🔐 “x”":                      "日本 🔐 “x”",
		"ends. ":                        "ends",
		"bad \xff utf8":                 "bad _ utf8",
		strings.Repeat("ü", 100):        strings.Repeat("ü", 60),
		strings.Repeat("a", 119) + "日本": strings.Repeat("a", 119),
	} {
		if got := safe(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := safeFolder("x.JSON"); got != "x.JSON_" {
		t.Error(got)
	}
}

func FuzzSafe(f *testing.F) {
	f.Add("../x")
	f.Add("NUL.json")
	f.Fuzz(func(t *testing.T, name string) {
		for _, got := range []string{safe(name), safeFolder(name)} {
			if got == "" || len(got) > longest+len("__.") || strings.ContainsAny(got, "/\\\x00\n") || !utf8.ValidString(got) || path.Clean(got) != got ||
				strings.HasPrefix(got, ".") || strings.HasPrefix(got, "-") {
				t.Errorf("%q: %q", name, got)
			}
		}
	})
}

func place(id, name string, project n8ndb.Named, folders ...n8ndb.Named) n8ndb.WorkflowPlace {
	return n8ndb.WorkflowPlace{ID: id, Name: name, Project: project, Folders: folders}
}

func TestLayout(t *testing.T) {
	shop, other, none := n8ndb.Named{ID: "p1", Name: "Shop"}, n8ndb.Named{ID: "p2", Name: "shop"}, n8ndb.Named{}
	a, b, c := n8ndb.Named{ID: "f1", Name: "Daily"}, n8ndb.Named{ID: "f2", Name: "Daily"}, n8ndb.Named{ID: "f3", Name: "deep/er"}
	places := []n8ndb.WorkflowPlace{
		place("w1", "Orders", shop, a),
		place("w2", "orders", shop, a),
		place("w3", "orders-w2", shop, a),
		place("w4", "Orders", shop, b, c),
		place("w5", "Orders", other),
		place("w6", "Alone", none),
		place("w7", "Daily", shop),
		place("w8", "Daily.json", shop),
		place("w9", "../../x", shop),
	}
	want := map[string]string{
		"w1": "Shop-p1/Daily-f1/Orders-w1.json",
		"w2": "Shop-p1/Daily-f1/orders-w2-w2.json",
		"w3": "Shop-p1/Daily-f1/orders-w2-w3.json",
		"w4": "Shop-p1/Daily-f2/deep_er/Orders.json",
		"w5": "shop-p2/Orders.json",
		"w6": "Personal/Alone.json",
		"w7": "Shop-p1/Daily.json",
		"w8": "Shop-p1/Daily.json.json",
		"w9": "Shop-p1/_.._.._x.json",
	}
	got := layout(places)
	// w2 with its id is the plain name of w3, which then gets its own, after which
	// w2 keeps the one it has.
	want["w2"] = "Shop-p1/Daily-f1/orders-w2.json"
	want["w3"] = "Shop-p1/Daily-f1/orders-w2-w3.json"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for i := range places { // the order of the rows does not matter
		turned := append(append([]n8ndb.WorkflowPlace{}, places[i:]...), places[:i]...)
		if d := cmp.Diff(got, layout(turned)); d != "" {
			t.Error(d)
		}
	}
	seen := map[string]string{}
	for id, file := range got {
		if other := seen[strings.ToLower(file)]; other != "" {
			t.Errorf("%s and %s share %s", id, other, file)
		}
		seen[strings.ToLower(file)] = id
	}
}

// TestLayoutIsInjective gives many workflows few names.
func TestLayoutIsInjective(t *testing.T) {
	var places []n8ndb.WorkflowPlace
	names := []string{"a", "A", "a-1", "a-2", "a-1-1", "", "unnamed", "b/c", "b_c"}
	for i := range 200 {
		id := fmt.Sprint(i)
		places = append(places, place(id, names[i%len(names)], n8ndb.Named{ID: fmt.Sprint(i % 3), Name: names[i%2]}, n8ndb.Named{ID: fmt.Sprint(i % 7), Name: names[i%5]}))
	}
	seen := map[string]bool{}
	for _, file := range layout(places) {
		if file = strings.ToLower(file); seen[file] {
			t.Errorf("%s twice", file)
		}
		seen[file] = true
	}
	for id, file := range layout([]n8ndb.WorkflowPlace{place("a/b", "x", n8ndb.Named{}), place("a_b", "x", n8ndb.Named{}), place("A_B", "x", n8ndb.Named{})}) {
		if file = strings.ToLower(file); seen[file] {
			t.Errorf("%s: %s twice", id, file)
		}
		seen[file] = true
	}
	if len(seen) != 203 {
		t.Errorf("%d files", len(seen))
	}
}
