package deploy

import (
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// redacted is the form of a replaced value.
var (
	redacted     = regexp.MustCompile(`^REDACTED:[0-9a-f]{16}$`)
	redactedPart = regexp.MustCompile(`REDACTED:[0-9a-f]{16}`)
)

// redactor collects what is to be replaced in one file.
type redactor struct {
	cfg     Config
	src     string
	marks   [][]int // what was redacted in an earlier run
	lines   []int   // offset of each line
	edits   []edit
	reports []edit
}

// edit is a span of the file that is replaced, or reported.
type edit struct {
	from, to int
	row      string
	reason   Reason
	plain    string
	quote    bool
}

// leaf is a value with what its place says about it.
type leaf struct {
	row, name string
	txt       text
	refs      references
	reason    Reason // of a place that makes every value a secret; else ""
	listed    bool   // the name is that of a list of references: compose's secrets
	words     bool   // the text is prose or lines of some other language: a comment
}

// value redacts one value, or what is secret in it.
func (r *redactor) value(l leaf) {
	r.needle(l.row, l.txt)
	t := l.txt.trim()
	if t.s == "" || redacted.MatchString(t.s) {
		return
	}
	if l.reason == KubeSecret {
		r.secret(l, t, l.reason)
		return
	}
	if l.reason != "" && !isSwitch(t.s) && !l.listed {
		r.secret(l, t, l.reason)
		return
	}
	if !l.listed && namesSecret(l.name, t.s) {
		r.secret(l, t, ByName)
		return
	}
	r.scan(l)
}

// namesSecret reports whether the name makes the value a secret.
func namesSecret(name, value string) bool {
	v := judge(name)
	if v <= exempt || isSwitch(value) || aboutCount(name) && isNumber(value) || isSecretsName(name, value) {
		return false
	}
	switch v {
	case bareKey:
		return looksRandom(value)
	case weak:
		return !isPath(value)
	}
	// The path of a key or certificate is as common under its name as the key.
	last := words(name)
	if w := last[len(last)-1]; w == "key" || w == "keys" {
		return !isPath(value)
	}
	return true
}

var (
	switchWord = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|null|nil|none|~|undefined|enabled|disabled)$`)
	number     = regexp.MustCompile(`^[+-]?[0-9][0-9_.,]*$`)
	filePath   = regexp.MustCompile(`^(?:~|\.{1,2})?(?:/[A-Za-z0-9._@%{}$-]+)+/?$`)
	// The name of an entry in somebody else's secret, in Helm values.
	keyOfSecret  = regexp.MustCompile(`(?:[pP]assword|[sS]ecret|[tT]oken|[kK]ey)Key$`)
	entryOfThose = regexp.MustCompile(`^[a-z]+(?:[-_.][a-z]+)*$`)
)

func isSwitch(s string) bool { return switchWord.MatchString(s) }
func isNumber(s string) bool { return number.MatchString(s) }

func isPath(s string) bool {
	if !filePath.MatchString(s) || strings.Count(s, "/") < 2 && !strings.Contains(s, ".") {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if looksRandom(part) {
			return false
		}
	}
	return true
}

func isSecretsName(name, value string) bool {
	return keyOfSecret.MatchString(name) && entryOfThose.MatchString(value) &&
		(strings.Contains(value, "password") || strings.Contains(value, "secret") || strings.Contains(value, "token") || strings.Contains(value, "key"))
}

// secret redacts all of t but references, and the defaults in those.
func (r *redactor) secret(l leaf, t text, reason Reason) {
	t = t.trim()
	if t.s == "" || redacted.MatchString(t.s) {
		return
	}
	if defaults, ok := onlyReferences(t.s, l.refs); ok {
		for _, d := range defaults {
			r.secret(l, t.slice(d[0], d[1]), reason)
		}
		return
	}
	if reason != KubeSecret && elsewhere.MatchString(t.s) {
		return
	}
	r.edit(l.row, t, reason)
}

func (r *redactor) edit(row string, t text, reason Reason) {
	if r.cfg.KeepSecrets && reason != Needle {
		return
	}
	from, to := t.span()
	if from < to && (reason == Needle || !within(r.marks, from, to)) {
		r.edits = append(r.edits, edit{from, to, row, reason, t.s, t.quote})
	}
}

// within reports whether one of the spans, which are in order, holds all of the
// other.
func within(spans [][]int, from, to int) bool {
	i := sort.Search(len(spans), func(i int) bool { return spans[i][1] >= to })
	return i < len(spans) && spans[i][0] <= from
}

func (r *redactor) report(row string, t text, reason Reason) {
	if from, to := t.span(); from < to && !r.cfg.KeepSecrets {
		r.reports = append(r.reports, edit{from: from, to: to, row: row, reason: reason})
	}
}

// needle redacts the instance key in the text.
func (r *redactor) needle(row string, t text) {
	if t.s == "" {
		return
	}
	for _, at := range r.cfg.Needle([]byte(t.s)) {
		r.edit(row, t.slice(at[0], at[1]), Needle)
	}
}

// rawNeedle redacts the instance key wherever it stands in the file, names
// included.
func (r *redactor) rawNeedle() {
	for _, at := range r.cfg.Needle([]byte(r.src)) {
		r.edit(fmt.Sprintf("line %d", r.line(at[0])), raw(r.src, at[0], at[1]), Needle)
	}
}

var word = regexp.MustCompile("[^\\s\"'`=:,;]+")

// words looks for the instance key in every word of a file that is not parsed.
func (r *redactor) words() {
	for _, m := range word.FindAllStringIndex(r.src, -1) {
		r.needle(fmt.Sprintf("line %d", r.line(m[0])), raw(r.src, m[0], m[1]))
	}
	from := 0
	for line := range strings.Lines(r.src) {
		t := raw(r.src, from, from+len(line)).trim()
		r.needle(fmt.Sprintf("line %d", r.line(from)), t)
		if i := strings.IndexAny(t.s, "=:"); i >= 0 {
			r.needle(fmt.Sprintf("line %d", r.line(from)), t.slice(i+1, len(t.s)).trim())
		}
		from += len(line)
	}
}

// comments redacts what looks like a setting in comments. Comments that follow
// each other are one text, so that a key over several lines is seen as one.
func (r *redactor) comments(spans [][2]int) {
	for i := 0; i < len(spans); {
		from, to := spans[i][0], spans[i][1]
		for i++; i < len(spans) && strings.TrimSpace(r.src[to:spans[i][0]]) == ""; i++ {
			to = spans[i][1]
		}
		r.scan(leaf{row: "comment", txt: raw(r.src, from, to), refs: anyReference, words: true})
	}
}

// copies redacts what was redacted once wherever else it stands. Only values
// that are no ordinary word count, or a password "postgres" would take the image
// with it.
func (r *redactor) copies(doc document) {
	r.sortEdits()
	seen := map[string]bool{}
	names := doc.names()
	var more []edit
	for _, e := range r.edits {
		plain := strings.TrimSpace(e.plain)
		if seen[plain] || !distinct(plain) || len(seen) >= 1000 {
			continue
		}
		seen[plain] = true
		for from := 0; ; {
			n := strings.Index(r.src[from:], plain)
			if n < 0 {
				break
			}
			at := [2]int{from + n, from + n + len(plain)}
			from = at[1]
			if joined(r.src, at) || r.covered(at) {
				continue
			}
			row := fmt.Sprintf("line %d", r.line(at[0]))
			if overlaps(names, at) {
				r.report(row, raw(r.src, at[0], at[1]), Repeated)
				continue
			}
			more = append(more, edit{from: at[0], to: at[1], row: row, reason: CopyOf, plain: plain})
		}
	}
	r.edits = append(r.edits, more...)
}

// covered reports whether an edit takes all of the span; edits are sorted.
func (r *redactor) covered(at [2]int) bool {
	i := sort.Search(len(r.edits), func(i int) bool { return r.edits[i].from > at[0] })
	for i--; i >= 0; i-- {
		if r.edits[i].to >= at[1] {
			return true
		}
		if at[0]-r.edits[i].from > MaxSize/64 {
			break
		}
	}
	return false
}

func (r *redactor) touchesName(doc document) bool {
	names := doc.names()
	for _, e := range r.edits {
		if overlaps(names, [2]int{e.from, e.to}) {
			return true
		}
	}
	return false
}

// overlaps reports whether one of the spans, which are in order, meets at.
func overlaps(spans [][2]int, at [2]int) bool {
	i := sort.Search(len(spans), func(i int) bool { return spans[i][1] > at[0] })
	return i < len(spans) && spans[i][0] < at[1]
}

// joined reports whether the span is only part of a word.
func joined(src string, at [2]int) bool {
	return at[0] > 0 && isAlnum(src[at[0]-1]) && isAlnum(src[at[0]]) || at[1] < len(src) && isAlnum(src[at[1]]) && isAlnum(src[at[1]-1])
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
}

func (r *redactor) sortEdits() {
	sort.SliceStable(r.edits, func(i, j int) bool {
		a, b := r.edits[i], r.edits[j]
		if a.from != b.from {
			return a.from < b.from
		}
		return a.to > b.to
	})
}

// apply writes the file anew. Edits that overlap become one.
func (r *redactor) apply() (Result, error) {
	r.sortEdits()
	var merged []edit
	for _, e := range r.edits {
		if n := len(merged); n > 0 && e.from < merged[n-1].to {
			if last := &merged[n-1]; e.to > last.to {
				last.to = e.to
				last.plain = r.src[last.from:last.to]
			}
			continue
		}
		merged = append(merged, e)
	}
	var out strings.Builder
	res := Result{}
	at := 0
	for _, e := range merged {
		digest := r.cfg.Digest(e.row, []byte(e.plain))
		mark := "REDACTED:"
		if len(digest) >= 16 {
			mark += digest[:16]
		}
		if !redacted.MatchString(mark) {
			return Result{}, fmt.Errorf("the digest is not made of hexadecimal digits")
		}
		out.WriteString(r.src[at:e.from])
		if e.quote {
			mark = `"` + mark + `"`
		}
		out.WriteString(mark)
		at = e.to
		res.Redacted = append(res.Redacted, Redaction{e.row, r.line(e.from), e.reason})
	}
	out.WriteString(r.src[at:])
	res.Content = []byte(out.String())
	res.Reported = r.reported(merged)
	return res, nil
}

// reported are the reports about what was not replaced in the end.
func (r *redactor) reported(merged []edit) []Redaction {
	spans := make([][2]int, len(merged))
	for i, e := range merged {
		spans[i] = [2]int{e.from, e.to}
	}
	sort.SliceStable(r.reports, func(i, j int) bool { return r.reports[i].from < r.reports[j].from })
	var out []Redaction
	end := -1
	for _, e := range r.reports {
		if e.from < end || overlaps(spans, [2]int{e.from, e.to}) {
			continue
		}
		end = e.to
		out = append(out, Redaction{e.row, r.line(e.from), e.reason})
	}
	return out
}

func (r *redactor) line(at int) int {
	if r.lines == nil {
		r.lines = []int{0}
		for i := range len(r.src) {
			if r.src[i] == '\n' {
				r.lines = append(r.lines, i+1)
			}
		}
	}
	return sort.Search(len(r.lines), func(i int) bool { return r.lines[i] > at })
}
