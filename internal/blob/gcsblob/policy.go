package gcsblob

import (
	"fmt"
	"strings"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// Policy is the least that an identity of the role needs, as gcloud commands with
// a custom role and a binding that holds for the prefix alone. The shell variables
// PROJECT and MEMBER are left to the reader.
func Policy(cfg Config, role blob.Role) (string, error) {
	var permissions []string
	what := ""
	switch role {
	case blob.Writer:
		permissions, what = []string{"storage.objects.create"}, "stores archives, reads and deletes nothing"
		if cfg.Retain > 0 {
			permissions = append(permissions, "storage.objects.setRetention")
		}
	case blob.Restorer:
		permissions, what = []string{"storage.objects.get", "storage.objects.list"}, "lists and reads archives"
	case blob.Pruner:
		permissions, what = []string{"storage.objects.get", "storage.objects.list", "storage.objects.delete"}, "lists, reads and deletes archives that are not locked"
	default:
		return "", problem.New(problem.Usage, "no role is called %q", string(role)).WithHint("roles are writer, restorer and pruner")
	}
	condition := ""
	if cfg.Prefix != "" {
		objects := "projects/_/buckets/" + cfg.Bucket + "/objects/" + cfg.Prefix
		expression := fmt.Sprintf(`resource.name.startsWith("%s")`, objects)
		if role != blob.Writer {
			// A listing has no object: its condition looks at the prefix that is asked for.
			expression += fmt.Sprintf(` || api.getAttribute("storage.googleapis.com/objectListPrefix", "").startsWith("%s")`, cfg.Prefix)
		}
		// "^#^" lets gcloud split at # instead of at commas.
		condition = fmt.Sprintf(" \\\n  --condition='^#^title=n8keep#expression=%s'", expression)
	}
	id := "n8keep" + strings.ToUpper(string(role[:1])) + string(role[1:])
	var b strings.Builder
	fmt.Fprintf(&b, "# n8keep %s of gcs://%s/%s: %s.\n", role, cfg.Bucket, strings.TrimSuffix(cfg.Prefix, "/"), what)
	b.WriteString("# Set PROJECT, and MEMBER as in serviceAccount:NAME@PROJECT.iam.gserviceaccount.com; the bucket needs uniform access.\n")
	fmt.Fprintf(&b, "gcloud iam roles create %s --project=\"$PROJECT\" \\\n  --permissions=%s\n", id, strings.Join(permissions, ","))
	fmt.Fprintf(&b, "gcloud storage buckets add-iam-policy-binding gs://%s \\\n  --member=\"$MEMBER\" --role=\"projects/$PROJECT/roles/%s\"%s\n", cfg.Bucket, id, condition)
	if role == blob.Writer {
		b.WriteString("# Give it storage.objects.delete and it can overwrite: do not use roles/storage.objectUser or objectAdmin.\n")
		if cfg.Retain > 0 {
			b.WriteString("# Object retention is switched on when the bucket is made: gcloud storage buckets create --enable-per-object-retention.\n")
		}
		if cfg.Lock == "governance" {
			b.WriteString("# Who has storage.objects.overrideUnlockedRetention can shorten these locks; lock=compliance leaves nobody.\n")
		}
	}
	return b.String(), nil
}
