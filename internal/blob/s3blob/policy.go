package s3blob

import (
	"fmt"

	"github.com/n8keep/n8keep/internal/blob"
)

// Policy is for people to apply.
func Policy(cfg Config, role blob.Role) (string, error) {
	return "", fmt.Errorf("no policy for role %q", role)
}
