package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// leftOut are the members of n8n's export that change without anybody editing the
// workflow, or that mean nothing in another n8n: what triggers remember, counters,
// and who owns it, which import:workflow ignores. An archive has them all.
func leftOut(member string) bool {
	switch member {
	case "staticData", "triggerCount", "versionCounter", "shared":
		return true
	}
	return false
}

// portable is n8n's export of a workflow without what is left out, with two spaces
// of indentation and a newline at the end, and the credentials it refers to.
// Members stay in n8n's order, and values as they are, down to the digits.
func portable(workflow []byte) (text []byte, uses []use, err error) {
	dec := json.NewDecoder(bytes.NewReader(workflow))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, errors.Join(errors.New("it is no JSON object"), err)
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, nil, err
		}
		if name == "nodes" {
			uses = usesOf(value)
		}
		if leftOut(name) {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:", name) // names are those of package n8ndb
		b.Write(value)
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, nil, errors.New("something follows the JSON object")
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return nil, nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), uses, nil
}

// usesOf are the credentials that nodes refer to, by type and id, each with the
// names of its nodes, sorted. Nodes that n8n itself could not read have none.
func usesOf(nodes []byte) []use {
	var list []json.RawMessage
	if json.Unmarshal(nodes, &list) != nil {
		return nil
	}
	byKey := map[[2]string]*use{}
	for _, raw := range list {
		var node struct {
			Name        string                     `json:"name"`
			Credentials map[string]json.RawMessage `json:"credentials"`
		}
		if json.Unmarshal(raw, &node) != nil {
			continue
		}
		for kind, raw := range node.Credentials {
			// Before 0.134 n8n stored the name alone.
			var ref struct {
				ID   any    `json:"id"`
				Name string `json:"name"`
			}
			if json.Unmarshal(raw, &ref) != nil && json.Unmarshal(raw, &ref.Name) != nil {
				continue
			}
			id := ""
			if ref.ID != nil {
				id = fmt.Sprint(ref.ID)
			}
			key := [2]string{kind, id + "\x00" + ref.Name}
			if byKey[key] == nil {
				byKey[key] = &use{ID: id, Name: ref.Name, Type: kind}
			}
			byKey[key].Nodes = append(byKey[key].Nodes, node.Name)
		}
	}
	var uses []use
	for _, u := range byKey {
		slices.Sort(u.Nodes)
		uses = append(uses, *u)
	}
	slices.SortFunc(uses, func(a, b use) int {
		return strings.Compare(a.Type+"\x00"+a.ID+"\x00"+a.Name, b.Type+"\x00"+b.ID+"\x00"+b.Name)
	})
	return uses
}

// idOf is the id of a workflow's file; "" when it is none.
func idOf(file []byte) string {
	var w struct {
		ID    string          `json:"id"`
		Nodes json.RawMessage `json:"nodes"`
	}
	if json.Unmarshal(file, &w) != nil || w.Nodes == nil {
		return ""
	}
	return w.ID
}
