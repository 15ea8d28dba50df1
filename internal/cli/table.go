package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// A column is never cut to fewer columns than this, but for the width of its
// header; a table on a terminal narrower than that runs over.
const minColumn = 8

const columnGap = "  "

// Table prints rows under headers, fitted to the width: the widest columns are
// cut, which "…" shows. The end of a header's name says how its column behaves:
// ">" aligns to the right, for numbers, and "!" is for what people copy, such as
// an id; neither is ever cut. No line ends in a space.
func (t *Terminal) Table(headers []string, rows [][]string) {
	if t.JSON {
		return
	}
	t.clearBar()
	cols := make([]column, len(headers))
	for i, h := range headers {
		cols[i] = newColumn(h)
	}
	cells := make([][]string, len(rows))
	for r, row := range rows {
		cells[r] = make([]string, len(cols))
		for i := range cols {
			if i < len(row) {
				cells[r][i] = printable(row[i])
			}
			cols[i].width = max(cols[i].width, uniseg.StringWidth(cells[r][i]))
		}
	}
	fit(cols, t.width())
	var b strings.Builder
	head := make([]string, len(cols))
	for i, c := range cols {
		head[i] = c.name
	}
	b.WriteString(t.paint(t.OutTTY, bold, tableLine(cols, head)) + "\n")
	for _, row := range cells {
		b.WriteString(tableLine(cols, row) + "\n")
	}
	t.print(b.String())
}

type column struct {
	name  string
	right bool
	fixed bool
	least int
	width int
}

func newColumn(header string) column {
	c := column{name: header}
	if name, ok := strings.CutSuffix(header, ">"); ok {
		c.name, c.right, c.fixed = name, true, true
	} else if name, ok := strings.CutSuffix(header, "!"); ok {
		c.name, c.fixed = name, true
	}
	c.width = uniseg.StringWidth(c.name)
	c.least = max(minColumn, c.width)
	return c
}

// fit takes from the widest flexible column, one by one, until the line fits or
// nothing is left to take.
func fit(cols []column, width int) {
	total := len(columnGap) * (len(cols) - 1)
	for _, c := range cols {
		total += c.width
	}
	for total > width {
		widest := -1
		for i, c := range cols {
			if !c.fixed && c.width > c.least && (widest < 0 || c.width > cols[widest].width) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		cols[widest].width--
		total--
	}
}

func tableLine(cols []column, row []string) string {
	var b strings.Builder
	for i, c := range cols {
		if i > 0 {
			b.WriteString(columnGap)
		}
		cell := cut(row[i], c.width)
		pad := strings.Repeat(" ", max(0, c.width-uniseg.StringWidth(cell)))
		if c.right {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// cut shortens s to the width, never inside of what a reader sees as one
// character.
func cut(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	used, state := 0, -1
	for s != "" {
		var cluster string
		var w int
		cluster, s, w, state = uniseg.FirstGraphemeClusterInString(s, state)
		if used+w > width-1 {
			break
		}
		b.WriteString(cluster)
		used += w
	}
	return strings.TrimRight(b.String(), " ") + "…"
}

// KeyValues prints "name: value" for each pair, with the values under each
// other. A pair with an empty value is left out. Values are never cut; on a
// terminal they are wrapped between words.
func (t *Terminal) KeyValues(pairs ...string) {
	if t.JSON {
		return
	}
	t.clearBar()
	width := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, uniseg.StringWidth(printable(pairs[i])))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		name, value := printable(pairs[i]), strings.TrimRight(printable(t.again(pairs[i+1])), " ")
		if value == "" {
			continue
		}
		pad := strings.Repeat(" ", width-uniseg.StringWidth(name)+2)
		t.print(name + ":" + pad[1:] + t.hang(value, width+2) + "\n")
	}
}

// hang wraps a text that begins in the column indent, so that all of its lines
// begin there. Words are left whole, whatever their length: they are copied.
func (t *Terminal) hang(s string, indent int) string {
	const least = 20 // columns of text in which wrapping makes sense
	room := t.width() - indent
	if !t.OutTTY || room < least {
		return s
	}
	var b strings.Builder
	used := 0
	for i, word := range strings.Split(s, " ") {
		w := uniseg.StringWidth(word)
		if i > 0 && used+1+w > room {
			b.WriteString("\n" + strings.Repeat(" ", indent))
			used = 0
		} else if i > 0 {
			b.WriteString(" ")
			used++
		}
		b.WriteString(word)
		used += w
	}
	return b.String()
}

// HumanBytes is n in powers of 1000 with two or three digits: "999 B", "1.5 kB",
// "12 MB".
func HumanBytes(n int64) string {
	if n < 0 {
		return "-" + HumanBytes(-max(n, -math.MaxInt64))
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		f /= 1000
		switch {
		case f < 9.95:
			return fmt.Sprintf("%.1f %s", f, unit)
		case f < 999.5:
			return fmt.Sprintf("%.0f %s", f, unit)
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}

// HumanAge is d in its largest whole unit, seconds to years: "45 s", "12 min",
// "5 h", "12 d", "3 y". Hours go up to two days and days up to two years. A
// negative age, from clocks that differ, is "0 s".
func HumanAge(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d < 2*365*day:
		return fmt.Sprintf("%d d", d/day)
	}
	return fmt.Sprintf("%d y", d/(365*day))
}

// Plural is the number with the noun in the number's form: "1 credential",
// "0 entries", "3 matches".
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	switch {
	case strings.HasSuffix(noun, "y") && len(noun) > 1 && !strings.ContainsRune("aeiou", rune(noun[len(noun)-2])):
		noun = noun[:len(noun)-1] + "ies"
	case strings.HasSuffix(noun, "s"), strings.HasSuffix(noun, "x"), strings.HasSuffix(noun, "ch"), strings.HasSuffix(noun, "sh"):
		noun += "es"
	default:
		noun += "s"
	}
	return strconv.FormatInt(n, 10) + " " + noun
}
