package azureblob

import (
	"fmt"
	"strings"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// Policy is the least that an identity of the role needs, in two ways: a role
// definition with an assignment, and a shared access signature. Shell variables in
// it are left to the reader. Azure's roles cannot be limited to a prefix without
// conditions, so a container for n8keep alone is assumed.
func Policy(cfg Config, role blob.Role) (string, error) {
	const blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/"
	var dataActions []string
	permissions, what := "", ""
	switch role {
	case blob.Writer:
		// add/action creates and, unlike write, does not overwrite.
		dataActions, permissions, what = []string{blobs + "add/action"}, "c", "stores archives, reads, overwrites and deletes nothing"
		if cfg.Retain > 0 {
			dataActions, permissions = append(dataActions, blobs+"immutableStorage/runAsSuperUser/action"), "ci"
		}
	case blob.Restorer:
		dataActions, permissions, what = []string{blobs + "read"}, "rl", "lists and reads archives"
	case blob.Pruner:
		dataActions, permissions, what = []string{blobs + "read", blobs + "delete", blobs + "deleteBlobVersion/action"}, "rldx", "lists, reads and deletes archives that are not locked"
	default:
		return "", problem.New(problem.Usage, "no role is called %q", string(role)).WithHint("roles are writer, restorer and pruner")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# n8keep %s of azure://%s/%s: %s. Take one of the two ways.\n", role, cfg.Account, cfg.Container, what)
	scope := fmt.Sprintf("/subscriptions/$SUBSCRIPTION/resourceGroups/$GROUP/providers/Microsoft.Storage/storageAccounts/%s/blobServices/default/containers/%s", cfg.Account, cfg.Container)
	fmt.Fprintf(&b, `
# 1. A role for an Azure identity. Set SUBSCRIPTION, GROUP and PRINCIPAL (its object id).
az role definition create --role-definition '{
  "Name": "n8keep %s",
  "Description": "n8keep: %s",
  "Actions": [],
  "DataActions": ["%s"],
  "AssignableScopes": ["/subscriptions/'"$SUBSCRIPTION"'/resourceGroups/'"$GROUP"'"]
}'
az role assignment create --role "n8keep %s" --assignee-object-id "$PRINCIPAL" \
  --scope "%s"
`, role, what, strings.Join(dataActions, `", "`), role, scope)
	fmt.Fprintf(&b, `
# 2. A shared access signature: put what this prints into the file of credentials=file:PATH, and set EXPIRY as in 2027-01-31.
az storage container generate-sas --account-name %s --name %s --https-only \
  --permissions %s --expiry "$EXPIRY" --output tsv
`, cfg.Account, cfg.Container, permissions)
	if role == blob.Writer {
		b.WriteString("\n# With create alone an archive goes into a temporary file first and may have 5000 MiB at most. Larger ones need write\n" +
			"# too (cw), with which blobs can be overwritten: then switch on versions and use retain and lock.\n")
		if cfg.Retain > 0 {
			b.WriteString("# immutableStorage/runAsSuperUser (in a signature: i) sets the lock of each archive, and can remove locks of lock=governance.\n" +
				"# A default policy on the container locks without it: then leave it out, and retain and lock out of the URL.\n")
		}
	}
	return b.String(), nil
}
