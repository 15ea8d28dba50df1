package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blob/azureblob"
	"github.com/n8keep/n8keep/internal/blob/gcsblob"
	"github.com/n8keep/n8keep/internal/blob/s3blob"
	"github.com/n8keep/n8keep/internal/blob/sftpblob"
	"github.com/n8keep/n8keep/internal/problem"
)

// role reads --role; "" is a writer.
func role(name string) (blob.Role, error) {
	if name == "" {
		return blob.Writer, nil
	}
	if !slices.Contains(blob.Roles(), blob.Role(name)) {
		return "", problem.New(problem.Usage, "no role is called %q", name).WithHint("roles are writer (takes backups), restorer (lists, verifies, restores) and pruner (deletes what is no longer kept)")
	}
	return blob.Role(name), nil
}

// TargetCheck tries out what the identity that this host has for a target may do.
// An identity that does not fit the role is a document and an error of kind
// CheckFailed.
func (a *App) TargetCheck(ctx context.Context, target, roleName string) (doc *api.TargetCheck, err error) {
	as, err := role(roleName)
	if err != nil {
		return nil, err
	}
	store, err := a.openTarget(ctx, target, true)
	if err != nil {
		return nil, err
	}
	location := store.Properties().Location
	prober, ok := store.(blob.Prober)
	if !ok {
		return nil, problem.New(problem.Usage, "target %q: what an identity may do cannot be tried out there", location).
			WithHint(`see what it should be able to do with "n8keep target policy"`)
	}
	_, end, err := a.begin(ctx, "target check", "", audit.WarnOnly, map[string]any{"target": location, "role": string(as)})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	trials, err := prober.Probe(ctx, "n8keep-canary-"+strings.ToLower(rand.Text()[:12]))
	if err != nil {
		if problem.KindOf(err) == problem.Unexpected {
			err = problem.Wrap(problem.Unreachable, err, "target %q", location).WithHint("check the address, the network and the credentials")
		}
		return nil, err
	}
	doc = &api.TargetCheck{Target: location, Role: string(as), Trials: []api.Trial{}}
	var more, less, hints []string
	policy := false // an answer that is wrong, and that a policy can put right
	for _, t := range trials {
		need := as.Need(t.Capability)
		excess := need == blob.Excess && t.Answer == blob.Yes
		lacking := need == blob.Required && t.Answer != blob.Yes
		doc.Trials = append(doc.Trials, api.Trial{Capability: string(t.Capability), Answer: string(t.Answer), Need: string(need), Wrong: excess || lacking, Detail: t.Detail})
		if t.Hint == "" {
			policy = policy || excess || lacking
		} else if (excess || lacking) && !slices.Contains(hints, t.Hint) {
			hints = append(hints, t.Hint)
		}
		if excess {
			more = append(more, string(t.Capability))
		}
		if lacking {
			less = append(less, string(t.Capability))
		}
	}
	doc.Fits = len(more)+len(less) == 0
	counts["trials"], counts["excess"], counts["lacking"] = int64(len(trials)), int64(len(more)), int64(len(less))
	return doc, unfit(as, target, location, more, less, hints, policy)
}

// unfit is nil for an identity that fits. The hints are the store's own; a policy
// is offered when one can help.
func unfit(as blob.Role, target, location string, more, less, hints []string, policy bool) error {
	var what []string
	if len(more) > 0 {
		what = append(what, "can do more than a "+string(as)+" should: "+strings.Join(more, ", "))
	}
	if len(less) > 0 {
		what = append(what, "cannot do what a "+string(as)+" must: "+strings.Join(less, ", "))
	}
	if len(what) == 0 {
		return nil
	}
	e := problem.New(problem.CheckFailed, "this identity %s", strings.Join(what, "; and it "))
	if !strings.Contains(location, "://") {
		return e.WithHint("a folder cannot be taken from those who may write there: add a target with locks, or let the file system make snapshots")
	}
	if target == "" {
		target = "TARGET"
	}
	for _, h := range hints {
		e.WithHint("%s", h)
	}
	if !policy {
		return e
	}
	return e.WithHint("the least it needs is printed by \"n8keep target policy %q --role %s\"", target, as)
}

const folderAdvice = `# A folder belongs to whoever may write there: he can also delete and overwrite.
# Against somebody who takes over this host, let another user or another machine copy the folder,
# or the file system make snapshots that this user cannot reach (ZFS, btrfs), or add a target with locks (s3://, gcs://, azure://).
# n8keep makes the folder with mode 0700 and its files with 0600; a %s needs no more than %s there.
`

// TargetPolicy is the least that an identity needs at a target, as text. Nothing
// is asked of the target.
func (a *App) TargetPolicy(target, roleName string) (*api.TargetPolicy, error) {
	as, err := role(roleName)
	if err != nil {
		return nil, err
	}
	location, err := a.targetLocation(target)
	if err != nil {
		return nil, err
	}
	scheme, _, remote := strings.Cut(location, "://")
	if !remote || scheme == "file" {
		rights := map[blob.Role]string{blob.Writer: "rwx", blob.Restorer: "r-x", blob.Pruner: "rwx"}[as]
		return &api.TargetPolicy{Target: strings.TrimPrefix(location, "file://"), Role: string(as), Policy: fmt.Sprintf(folderAdvice, as, rights)}, nil
	}
	u, err := url.Parse(location)
	if err != nil {
		// The parser's text quotes what it was given.
		return nil, problem.New(problem.Usage, "target %q: the address cannot be read", scheme+"://...").
			WithHint("it looks like s3://bucket/prefix?region=eu-central-1; percent-encode what is not a letter, digit or one of -._~/")
	}
	text := ""
	switch scheme {
	case "s3":
		text, err = policyText(u, a.Env, as, s3blob.Parse, s3blob.Policy)
	case "gcs", "gs":
		text, err = policyText(u, a.Env, as, gcsblob.Parse, gcsblob.Policy)
	case "azure":
		text, err = policyText(u, a.Env, as, azureblob.Parse, azureblob.Policy)
	case "sftp":
		text, err = policyText(u, a.Env, as, sftpblob.Parse, sftpblob.Policy)
	default:
		err = problem.New(problem.Usage, "target %q: no kind of target is called %q", scheme+"://...", scheme).
			WithHint("give a folder, or s3://, gcs://, azure:// or sftp://; the manual says how each is written")
	}
	if err != nil {
		return nil, err
	}
	u.RawQuery = ""
	return &api.TargetPolicy{Target: u.String(), Role: string(as), Policy: text}, nil
}

func policyText[C any](u *url.URL, env func(string) (string, bool), as blob.Role, parse func(*url.URL, func(string) (string, bool)) (C, error), policy func(C, blob.Role) (string, error)) (string, error) {
	cfg, err := parse(u, env)
	if err != nil {
		return "", err
	}
	return policy(cfg, as)
}
