package n8ndb

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
)

// CredentialUse is a credential and what uses it. The names are the users' own
// words, for the person who asked and never for a log.
type CredentialUse struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Type      string        `json:"type"` // n8n's, such as "slackApi"
	Workflows []WorkflowUse `json:"workflows"`
	Agents    []Named       `json:"agents"` // n8n's agents and chat agents
}

// WorkflowUse is a workflow that names a credential in a node, either in the form
// that is edited or in the one that is published.
type WorkflowUse struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Active bool   `json:"active"`
}

// CredentialUses lists every credential, by type, name and id, with the workflows,
// by id, that use it. Workflows are read one at a time; the list is in memory.
func (db *DB) CredentialUses(ctx context.Context) ([]CredentialUse, error) {
	var uses []CredentialUse
	err := db.view(ctx, func(v *view) error {
		by := credentialIndex{id: map[string]int{}, name: map[[2]string]int{}}
		t := v.db.table("credentials_entity")
		q := query{table: t, exprs: []string{v.cast("t", "name"), v.cast("t", "type")}}
		err := v.each(ctx, q, func(id string, cols []any) error {
			c := CredentialUse{ID: id, Name: textOf(cols[0]), Type: textOf(cols[1]), Workflows: []WorkflowUse{}, Agents: []Named{}}
			by.id[id], by.name[[2]string{c.Type, c.Name}] = len(uses), len(uses)
			uses = append(uses, c)
			return nil
		})
		if err != nil {
			return err
		}
		if err := v.workflowUses(ctx, by, uses); err != nil {
			return err
		}
		return v.agentUses(ctx, by, uses)
	})
	slices.SortFunc(uses, func(a, b CredentialUse) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return uses, err
}

// credentialIndex finds a credential in the list.
type credentialIndex struct {
	id   map[string]int
	name map[[2]string]int // type and name, as nodes named them before n8n 0.180
}

// named are the credentials that nodes refer to, in their order, each once:
//
//	[{"credentials":{"slackApi":{"id":"Wzf3rgUWBXxHv0cv","name":"Slack bot"}}}, ...]
//
// A reference by name only is followed as n8n did. What is no list of nodes has none.
func (x credentialIndex) named(nodes []byte) (found []int) {
	var list []struct {
		Credentials map[string]json.RawMessage `json:"credentials"`
	}
	if len(nodes) == 0 || json.Unmarshal(nodes, &list) != nil {
		return nil
	}
	for _, node := range list {
		for kind, raw := range node.Credentials {
			var ref struct {
				ID   *string `json:"id"`
				Name string  `json:"name"`
			}
			if json.Unmarshal(raw, &ref) != nil && json.Unmarshal(raw, &ref.Name) != nil {
				continue
			}
			i, ok := 0, false
			if ref.ID != nil && *ref.ID != "" {
				i, ok = x.id[*ref.ID]
			} else {
				i, ok = x.name[[2]string{kind, ref.Name}]
			}
			if ok && !slices.Contains(found, i) {
				found = append(found, i)
			}
		}
	}
	return found
}

func (v *view) workflowUses(ctx context.Context, by credentialIndex, uses []CredentialUse) error {
	t := v.db.table("workflow_entity")
	if t.Column("nodes") == nil {
		return nil
	}
	q := query{table: t, exprs: []string{v.cast("t", "name"), v.optional(t, "active"), v.cast("t", "nodes"), "NULL"}}
	// From n8n 2.0 on the published version runs, which may differ from the edited one.
	if h := v.db.table("workflow_history"); t.Column("activeVersionId") != nil && h.Column("nodes") != nil {
		q.join = `LEFT JOIN ` + v.db.from(h) + ` AS h ON h."versionId" = t."activeVersionId" AND h."workflowId" = t."id"`
		q.exprs[3] = v.cast("h", "nodes")
	}
	return v.each(ctx, q, func(id string, cols []any) error {
		w := WorkflowUse{ID: id, Name: textOf(cols[0]), Active: isTrue(cols[1])}
		found := by.named(bytesOf(cols[2]))
		for _, i := range by.named(bytesOf(cols[3])) {
			if !slices.Contains(found, i) {
				found = append(found, i)
			}
		}
		for _, i := range found {
			uses[i].Workflows = append(uses[i].Workflows, w)
		}
		return nil
	})
}

// agentUses adds n8n's agents (2.22 and later) and the chat agents of its chat hub.
func (v *view) agentUses(ctx context.Context, by credentialIndex, uses []CredentialUse) error {
	add := func(credential string, agent Named) {
		if i, ok := by.id[credential]; ok && !slices.Contains(uses[i].Agents, agent) {
			uses[i].Agents = append(uses[i].Agents, agent)
		}
	}
	links, agents := v.db.table("agent_credential_dependency"), v.db.table("agents")
	if links.Column("credentialId") != nil && links.Column("agentId") != nil && agents.Column("name") != nil {
		q := query{table: links, exprs: []string{v.cast("t", "credentialId"), v.cast("a", "id"), v.cast("a", "name")},
			join: `JOIN ` + v.db.from(agents) + ` AS a ON a."id" = t."agentId"`}
		err := v.each(ctx, q, func(_ string, cols []any) error {
			add(textOf(cols[0]), Named{textOf(cols[1]), textOf(cols[2])})
			return nil
		})
		if err != nil {
			return err
		}
	}
	chat := v.db.table("chat_hub_agents")
	if chat.Column("credentialId") == nil || chat.Column("name") == nil {
		return nil
	}
	q := query{table: chat, exprs: []string{v.cast("t", "credentialId"), v.cast("t", "name")}, where: `t."credentialId" IS NOT NULL`}
	return v.each(ctx, q, func(id string, cols []any) error {
		add(textOf(cols[0]), Named{id, textOf(cols[1])})
		return nil
	})
}

// isTrue reads a boolean column of either engine.
func isTrue(c any) bool {
	switch c := c.(type) {
	case bool:
		return c
	case int64:
		return c != 0
	}
	s := textOf(c)
	return s == "t" || s == "true" || s == "1"
}
