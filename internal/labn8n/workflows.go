package labn8n

import (
	"errors"
	"fmt"
	"testing"
)

type node = map[string]any

// seedWorkflows makes five workflows: a webhook that uses a credential and one that waits (both active), a schedule
// (active), one with several credentials (inactive), and one imported by the command line.
func seedWorkflows(t testing.TB, s *Server, c *Client, f *Facts, echo *Echo, project string) {
	t.Helper()
	f.Webhook = "lab-hook"
	byName := map[string]Credential{}
	for _, cred := range f.Credentials {
		byName[cred.Name] = cred
	}

	hook := workflow("Webhook with header auth", webhook(f.Webhook, "lastNode"), request("Call", echo.URL+"/call", f.HeaderAuth))
	schedule := workflow("Schedule with basic auth", node{
		"name": "Schedule", "type": "n8n-nodes-base.scheduleTrigger", "typeVersion": 1.2,
		"parameters": node{"rule": node{"interval": []any{node{"field": "hours", "hoursInterval": 6}}}},
	}, request("Call", echo.URL+"/schedule", byName["Basic auth"]))
	for _, w := range []node{hook, schedule} {
		w["active"], w["projectId"] = false, project
		var made data[identified]
		c.must(t, "POST", "/rest/workflows", w, &made)
		c.activate(t, made.Data.ID)
	}

	tell := request("Tell", echo.URL+"/waiting", Credential{})
	tell["parameters"].(node)["sendHeaders"] = true
	tell["parameters"].(node)["headerParameters"] = node{"parameters": []any{node{"name": "X-Resume-Url", "value": "={{ $execution.resumeUrl }}"}}}
	waiting := workflow("Wait, then header auth ✓", webhook("lab-wait", "onReceived"), tell, node{
		"name": "Wait", "type": "n8n-nodes-base.wait", "typeVersion": 1.1, "webhookId": "00000000-0000-4000-8000-00000000aaaa",
		"parameters": node{"resume": "webhook", "httpMethod": "POST", "responseMode": "lastNode", "options": node{}},
	}, request("Call", echo.URL+"/resumed", f.HeaderAuth))
	manual := workflow("Manual with three credentials", node{
		"name": "Manual", "type": "n8n-nodes-base.manualTrigger", "typeVersion": 1, "parameters": node{},
	}, node{
		"name": "Query", "type": "n8n-nodes-base.postgres", "typeVersion": 2.5, "credentials": uses(byName["Postgres"]),
		"parameters": node{"operation": "executeQuery", "query": "select 1", "options": node{}},
	}, node{
		"name": "Slack", "type": "n8n-nodes-base.slack", "typeVersion": 2.3, "credentials": uses(byName["Slack bot"]),
		"parameters": node{"resource": "user", "operation": "info"},
	}, request("Unicode", echo.URL+"/unicode", byName["日本語 клад 🔐 “quotes” é"]))
	var ids []string
	for _, w := range []node{waiting, manual} {
		var made identified
		c.must(t, "POST", "/api/v1/workflows", w, &made)
		ids = append(ids, made.ID)
	}
	c.activate(t, ids[0])

	imported := workflow("Imported by the command line", webhook("lab-imported", "lastNode"), request("Call", echo.URL+"/imported", byName["JWT"]))
	imported["id"], imported["active"] = "labWorkflowCli01", false
	// n8n 2.0 fails on a file without one (NOT NULL constraint).
	imported["versionId"] = "00000000-0000-4000-8000-00000000bbbb"
	s.importFile(t, "import:workflow", f.OwnerID, []node{imported})

	c.AwaitWebhook(t, f)
	for range 3 {
		got, err := c.CallWebhook(t.Context(), f)
		if want := f.HeaderAuth.Data["value"]; err != nil || got != want {
			t.Fatalf("labn8n: the webhook's credential arrived as %q, want %q (%v)", got, want, err)
		}
	}
	f.Waiting = c.makeWaiting(t, ids[0], echo)
}

// makeWaiting starts the workflow with the Wait node and returns its execution once n8n has put it to sleep.
func (c *Client) makeWaiting(t testing.TB, workflow string, echo *Echo) (id string) {
	t.Helper()
	c.must(t, "POST", "/webhook/lab-wait", node{"n": 1}, nil)
	Eventually(t, "a waiting execution", func() (bool, error) {
		all, err := c.Executions(t.Context())
		if err != nil {
			return false, err
		}
		for _, e := range all {
			if e.WorkflowID == workflow && e.Status == "waiting" {
				id = e.ID
				if echo.ResumeURL() == "" {
					return false, errors.New("the workflow told the echo no resume address")
				}
				return true, nil
			}
		}
		return false, fmt.Errorf("executions are %v", all)
	})
	return id
}

func (c *Client) activate(t testing.TB, id string) {
	t.Helper()
	c.must(t, "POST", "/api/v1/workflows/"+id+"/activate", node{}, nil)
}

// workflow chains the nodes and gives them what every node must have.
func workflow(name string, nodes ...node) node {
	connections := node{}
	for i, n := range nodes {
		n["id"] = fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1)
		n["position"] = []int{220 * i, 0}
		if i > 0 {
			connections[nodes[i-1]["name"].(string)] = node{"main": []any{[]any{node{"node": n["name"], "type": "main", "index": 0}}}}
		}
	}
	return node{"name": name, "nodes": nodes, "connections": connections, "settings": node{"executionOrder": "v1"}}
}

func webhook(path, mode string) node {
	return node{
		"name": "Webhook", "type": "n8n-nodes-base.webhook", "typeVersion": 2, "webhookId": path,
		"parameters": node{"httpMethod": "POST", "path": path, "responseMode": mode, "options": node{}},
	}
}

// request calls url, with cred unless it has no type.
func request(name, url string, cred Credential) node {
	n := node{"name": name, "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2, "parameters": node{"url": url, "options": node{}}}
	if cred.Type != "" {
		p := n["parameters"].(node)
		p["authentication"], p["genericAuthType"] = "genericCredentialType", cred.Type
		n["credentials"] = uses(cred)
	}
	return n
}

func uses(cred Credential) node {
	return node{cred.Type: node{"id": cred.ID, "name": cred.Name}}
}
