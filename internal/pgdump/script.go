package pgdump

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
)

// Scripts are SQL for people and psql, and a list of statements for Restore, which has no parser for SQL: a comment line
// with a random word, chosen when the dump is made, begins each statement. Nothing in a database can know the word.
//
//	-- n8keep: native dump, statements begin with VJ3Q...
//	SET search_path = '';
//	-- VJ3Q... {"label":"table \"public\".\"tag_entity\""}
//	CREATE TABLE "public"."tag_entity" (
//	...
//	);
const scriptHead = "-- n8keep: native dump, statements begin with "

// statement is one statement of a script, and its JSON the rest of the marker line.
type statement struct {
	Label string `json:"label"`
	Index string `json:"index,omitempty"` // the table, for statements that may run beside those of other tables
	sql   string
}

// scripts turns the catalogue into pre.sql and post.sql.
func (c *catalogue) scripts() (pre, post []byte, err error) {
	sorted, err := c.order()
	if err != nil {
		return nil, nil, err
	}
	grants, err := c.grantStatements()
	if err != nil {
		return nil, nil, err
	}
	for _, g := range grants {
		g.late = true
		sorted = append(sorted, g)
	}
	var before, after []statement
	for _, o := range sorted {
		for _, s := range o.sql {
			st := statement{Label: o.label, Index: o.table, sql: s}
			if o.late {
				after = append(after, st)
			} else {
				before = append(before, st)
			}
		}
	}
	if pre, err = writeScript(before); err != nil {
		return nil, nil, err
	}
	post, err = writeScript(after)
	return pre, post, err
}

func writeScript(statements []statement) ([]byte, error) {
	word := rand.Text()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\n", scriptHead, word)
	for _, s := range settings() {
		// psql's reader may be another release than ours was: it does not know every setting, and needs only these.
		if !slices.Contains([]string{"transaction_timeout", "idle_session_timeout", "synchronize_seqscans", "TimeZone"}, s[0]) {
			fmt.Fprintf(&b, "SET %s = %s;\n", s[0], literal(s[1]))
		}
	}
	for _, s := range statements {
		mark, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("writing a script: %w", err)
		}
		fmt.Fprintf(&b, "\n-- %s %s\n%s;\n", word, mark, s.sql)
	}
	return b.Bytes(), nil
}

// readScript takes a script of writeScript apart; its settings are left out.
func readScript(name string, r io.Reader) ([]statement, error) {
	in := bufio.NewReader(r)
	first, err := in.ReadString('\n')
	word, ok := strings.CutPrefix(strings.TrimSuffix(first, "\n"), scriptHead)
	if err != nil || !ok || len(word) < 20 {
		return nil, problem.New(problem.Damaged, "%q does not begin as a script of a native dump", name)
	}
	mark := "-- " + word + " "
	var all []statement
	var body strings.Builder
	end := func() error {
		if len(all) == 0 {
			body.Reset()
			return nil
		}
		s, ok := strings.CutSuffix(strings.TrimRight(body.String(), "\n"), ";")
		if !ok {
			return problem.New(problem.Damaged, "%q is cut off in %s", name, all[len(all)-1].Label)
		}
		all[len(all)-1].sql = s
		body.Reset()
		return nil
	}
	for {
		line, err := in.ReadString('\n')
		if rest, ok := strings.CutPrefix(line, mark); ok {
			if err := end(); err != nil {
				return nil, err
			}
			var s statement
			if err := json.Unmarshal([]byte(rest), &s); err != nil {
				return nil, problem.Wrap(problem.Damaged, err, "%q has a damaged mark", name)
			}
			all = append(all, s)
		} else {
			body.WriteString(line)
		}
		if err == io.EOF {
			return all, end()
		}
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", name, err)
		}
	}
}
