package n8ndb

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// History says how much of what has already happened a snapshot takes along.
// The zero value is everything. The executions n8n still has to finish (new,
// running, waiting) are taken by every History, see [SnapshotConfig.DropWaiting].
type History struct {
	limited bool
	keep    time.Duration // 0: no finished execution at all
	text    string
}

// ParseHistory takes "all", "none", or a duration of hours, days or weeks such
// as "12h", "30d" or "2w". Anything else is a problem of kind Usage.
func ParseHistory(s string) (History, error) {
	switch s {
	case "all":
		return History{}, nil
	case "none":
		return History{limited: true, text: s}, nil
	}
	bad := func() (History, error) {
		return History{}, problem.New(problem.Usage, "history %q is not understood", s).
			WithHint(`use "all", "none", or hours, days or weeks such as "12h", "30d" or "2w"`)
	}
	if len(s) < 2 {
		return bad()
	}
	unit := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[s[len(s)-1]]
	digits := s[:len(s)-1]
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || unit == 0 || n == 0 || digits[0] == '0' || n > uint64(200*365*24*time.Hour/unit) {
		return bad()
	}
	return History{limited: true, keep: time.Duration(n) * unit, text: s}, nil
}

// String returns the text that ParseHistory takes.
func (h History) String() string {
	if !h.limited {
		return "all"
	}
	return h.text
}

// All reports whether nothing is left out.
func (h History) All() bool { return !h.limited }

// Since is the moment after which finished executions are kept; ok is false
// for "all" and "none".
func (h History) Since(now time.Time) (t time.Time, ok bool) {
	if h.keep == 0 {
		return time.Time{}, false
	}
	return now.Add(-h.keep), true
}

// historyTables are the high-churn tables of n8n up to 2.41.1, without prefix,
// that a limited History leaves out. A table that is not listed is kept: a
// missing table breaks an instance, a superfluous one only costs space. For
// that reason the families are spelled out, and agent_eval_dataset and
// instance_ai_mcp_registry_connections, which users set up, are not here.
func historyTables() []string {
	return []string{
		"activity_event",
		"agent_checkpoints",
		"agent_eval_rating", "agent_eval_result", "agent_eval_run",
		"agent_execution", "agent_execution_threads",
		"agents_memory_entries", "agents_memory_entry_candidates", "agents_memory_entry_locks", "agents_memory_entry_sources",
		"agents_messages",
		"agents_observation_cursors", "agents_observation_locks", "agents_observations",
		"binary_data",
		"chat_hub_messages", "chat_hub_sessions",
		"execution_annotation_tags", "execution_annotations", "execution_data", "execution_entity", "execution_metadata",
		"insights_by_period", "insights_metadata", "insights_raw",
		"instance_ai_checkpoints", "instance_ai_events", "instance_ai_iteration_logs", "instance_ai_messages",
		"instance_ai_observation_cursors", "instance_ai_observation_locks", "instance_ai_observational_memory", "instance_ai_observations",
		"instance_ai_pending_confirmations", "instance_ai_resources", "instance_ai_thread_grants", "instance_ai_threads",
		"instance_ai_workflow_snapshots",
		"scheduled_task",
		"test_case_execution",
		"token_exchange_jti",
		"workflow_statistics", "workflow_statistics_delta",
	}
}

func historyIsChurn(table, prefix string) bool {
	name, ok := strings.CutPrefix(table, prefix)
	return ok && slices.Contains(historyTables(), name)
}
