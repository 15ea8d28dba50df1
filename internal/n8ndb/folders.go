package n8ndb

import (
	"context"
	"slices"
)

// WorkflowPlace is where n8n shows a workflow.
type WorkflowPlace struct {
	ID, Name string
	// Project is the one that owns the workflow; its ID is "" where n8n knows no
	// projects (before 1.38) or the row is missing.
	Project Named
	// Type of the project is "personal" or "team".
	ProjectType string
	// Folders are those around the workflow, the outermost first. n8n has them from
	// 1.86 on.
	Folders []Named
}

// Named is something that n8n knows by an id and shows by a name.
type Named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// ExportWorkflows reads all workflows in one look at the database: plan gets the
// places of all, by id, and then each gets one workflow after the other, in the
// same order. Where reading must not hold up n8n's writes (n8n 1.x with a rollback
// journal) a workflow that is made meanwhile may reach each without having been in
// plan. An error of either ends the reading.
func (db *DB) ExportWorkflows(ctx context.Context, plan func([]WorkflowPlace) error, each func(Workflow) error) error {
	return db.view(ctx, func(v *view) error {
		places, err := v.workflowPlaces(ctx)
		if err != nil {
			return err
		}
		if err := plan(places); err != nil {
			return err
		}
		return v.workflows(ctx, each)
	})
}

// namedRow is a row of project or folder.
type namedRow struct {
	Named
	of string // type of a project, folder around a folder
}

func (v *view) workflowPlaces(ctx context.Context) ([]WorkflowPlace, error) {
	projects, err := v.namedRows(ctx, "project", "type")
	if err != nil {
		return nil, err
	}
	folders, err := v.namedRows(ctx, "folder", "parentFolderId")
	if err != nil {
		return nil, err
	}
	owners := map[string]string{}
	if t := v.db.table("shared_workflow"); t.Column("workflowId") != nil && t.Column("projectId") != nil && t.Column("role") != nil {
		q := query{table: t, exprs: []string{v.cast("t", "workflowId"), v.cast("t", "projectId")}, where: `t."role" = 'workflow:owner'`}
		err := v.each(ctx, q, func(_ string, cols []any) error {
			owners[textOf(cols[0])] = textOf(cols[1])
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	t := v.db.table("workflow_entity")
	q := query{table: t, exprs: []string{v.cast("t", "id"), v.cast("t", "name"), "NULL"}}
	if t.Column("parentFolderId") != nil {
		q.exprs[2] = v.cast("t", "parentFolderId")
	}
	var places []WorkflowPlace
	err = v.each(ctx, q, func(_ string, cols []any) error {
		p := WorkflowPlace{ID: textOf(cols[0]), Name: textOf(cols[1])}
		if owner, ok := projects[owners[p.ID]]; ok {
			p.Project, p.ProjectType = owner.Named, owner.of
		}
		seen := map[string]bool{}
		for id := textOf(cols[2]); id != "" && !seen[id]; {
			seen[id] = true // a ring of folders ends here
			f, ok := folders[id]
			if !ok {
				break
			}
			p.Folders = append(p.Folders, f.Named)
			id = f.of
		}
		slices.Reverse(p.Folders)
		places = append(places, p)
		return nil
	})
	return places, err
}

// namedRows reads a table by id; one that this n8n does not have is empty.
func (v *view) namedRows(ctx context.Context, table, of string) (map[string]namedRow, error) {
	t := v.db.table(table)
	if t.Column("id") == nil || t.Column("name") == nil || t.Column(of) == nil {
		return nil, nil
	}
	found := map[string]namedRow{}
	q := query{table: t, exprs: []string{v.cast("t", "id"), v.cast("t", "name"), v.cast("t", of)}}
	err := v.each(ctx, q, func(_ string, cols []any) error {
		id := textOf(cols[0])
		found[id] = namedRow{Named{id, textOf(cols[1])}, textOf(cols[2])}
		return nil
	})
	return found, err
}
