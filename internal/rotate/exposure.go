package rotate

import (
	"fmt"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

// Exposed is a line of the checklist after a leak: a secret that whoever has the
// database and the old key can read. Name is the user's own word for a credential, for
// the person who asked and never for a log.
type Exposed struct {
	Kind      string              `json:"kind"` // "credential", or the place of another secret
	ID        string              `json:"id,omitempty"`
	Type      string              `json:"type"`
	Name      string              `json:"name,omitempty"`
	Count     int64               `json:"count"`
	Workflows []n8ndb.WorkflowUse `json:"workflows,omitempty"`
	Agents    []n8ndb.Named       `json:"agents,omitempty"`
	// Replaced says that the rotation itself makes it anew. Else Do is what a person
	// has to do.
	Replaced bool   `json:"replaced"`
	Do       string `json:"do"`
}

// leaked is what to do about the secrets of a row of the catalogue.
type leaked struct {
	number int
	kind   string // for people
	do     string
}

func leakedPlaces() []leaked {
	return []leaked{
		{2, "MFA secret", "n8n mfa:disable --email=ADDRESS for each of these users, who set up their second factor anew"},
		{3, "MFA recovery code", "they are made anew with the second factor"},
		{4, "LDAP password", "give the user that binds another password in the directory, and in n8n under Settings > LDAP"},
		{5, "external secrets provider", "revoke its token at the provider, and everything that the token could read"},
		{6, "external secrets provider", "revoke its token at the provider, and everything that the token could read"},
		{7, "Git deploy key", "remove the public key at the Git host, and make a new one in n8n under Settings > Environments"},
		{8, "Git login", "revoke the token at the Git host, and set a new one in n8n under Settings > Environments"},
		{9, "OIDC client secret", "make a new one at the identity provider, and set it in n8n under Settings > SSO"},
		{10, "SAML signing key", "make a new key pair, and give the identity provider the new certificate"},
		{11, "credentials overwrite", "make new client secrets at each provider, and set them where CREDENTIALS_OVERWRITE comes from"},
		{12, "dynamic credential resolver", "replace what it logs in with at its provider"},
		{13, "dynamic credential", "revoke the token at its provider; the user connects again"},
		{14, "dynamic credential of a user", "revoke the token at its provider; the user connects again"},
		{15, "Git connection", "revoke key or token at the Git host, and set a new one in n8n"},
		{16, "promotion provider", "revoke key or token at its provider, and set a new one in n8n"},
		{17, "identity in an execution", "the tokens of whoever started it: end their sessions at the identity provider"},
		{18, "identity in an execution on disk", "the tokens of whoever started it: end their sessions at the identity provider"},
		{23, "JWE key", "it stays the same: services that encrypt for n8n need another public key, once n8n has made a new pair"},
		{24, "OAuth server signing key", "it stays the same, and tokens can be forged with it until n8n has made a new one"},
	}
}

// finishedPlace is where most of what finished executions hold is.
const finishedPlace = n8ndb.PlaceID("execution_data.data[credentials]")

// exposure is the checklist after a leak, in the order in which it is best done: the
// credentials by type, then n8n's own secrets. It is a pure function of a plan whose
// places and derived secrets are filled in; leaking as in effects.
func exposure(p *Plan, version n8ndb.Version, uses []n8ndb.CredentialUse, leaking bool) *Exposure {
	var list []Exposed
	leaves := false
	for _, u := range uses {
		e := Exposed{Kind: "credential", ID: u.ID, Type: u.Type, Name: u.Name, Count: 1, Workflows: u.Workflows, Agents: u.Agents,
			Do: "replace the secret at its provider, then in n8n"}
		if len(u.Workflows) == 0 && len(u.Agents) == 0 {
			e.Do = "revoke the secret at its provider; nothing uses it, so delete it in n8n"
		}
		list = append(list, e)
	}
	byNumber := map[int]int64{}
	place := map[int]n8ndb.PlaceID{}
	for _, pl := range p.Places {
		byNumber[pl.Number] += pl.Values
		if pl.Values > 0 && place[pl.Number] == "" {
			place[pl.Number] = pl.Place
		}
	}
	for _, l := range leakedPlaces() {
		if n := byNumber[l.number]; n > 0 {
			list = append(list, Exposed{Kind: string(place[l.number]), Type: l.kind, Count: n, Do: l.do})
		}
	}
	if n := p.LeftValues + p.LeftKeyedValues; n > 0 {
		list = append(list, Exposed{Kind: string(finishedPlace), Type: "identity in a finished execution", Count: n,
			Do: "it stays under keys that leaked: delete these executions in n8n, or take them along with --executions all; the tokens of whoever started them: end their sessions at the identity provider"})
	}
	if n := byNumber[19]; n > 0 {
		e := Exposed{Kind: string(place[19]), Type: "data key", Count: n, Replaced: true, Do: "the rotation makes a new one and encrypts with it what was under these"}
		if version.Before(2, 39) {
			e.Replaced, e.Do = false, "what is under these is encrypted with the instance key now, and none is active"
			if leaking {
				e.Do, leaves = leavesDataKey, true
			}
		}
		list = append(list, e)
	}
	for _, d := range p.Derived {
		switch {
		case d.Secret == "instance.id" || d.Secret == "telegram.webhook":
		case d.How == BySet:
			list = append(list, Exposed{Kind: "environment", Type: d.Secret, Count: 1, Do: "it is not in the database; set another value for " + d.Variable + " if the environment leaked, too"})
		default:
			list = append(list, Exposed{Kind: "derived", Type: d.Secret, Count: 1, Replaced: true, Do: "the rotation ends it: " + d.Effect})
		}
	}
	return &Exposure{List: list, Advice: leakAdvice(p), LeavesDataKey: leaves}
}

// leavesDataKey: before it is finalised, nothing but the rotation changes keys.
const leavesDataKey = "first \"n8keep rotate finalise\", then make a new one with \"n8keep data-key rotate\", which is refused (exit 11) before: the active one stays active, and n8n encrypts with it wherever its key rotation is on; what is under these is encrypted with the instance key now"

func leakAdvice(p *Plan) []string {
	d := p.Dependents
	advice := []string{
		"whoever has the old key may have used it already: look at the logs of the services that the credentials are for, from the day of the leak on",
		"archives of before the rotation can still be read with the leaked key and their identity: keep the identity away, and let them go when you can",
		"encrypted is not all that is secret in this database: password hashes, variables, headers of log streams, OAuth clients' secrets and what workflows hold in clear are readable without any key",
	}
	if d.APIKeys > 0 || d.OldAPIKeys > 0 {
		advice = append(advice, fmt.Sprintf("API keys stand in clear in the database (%d): delete them in n8n and make new ones; those of before 1.66 do not end by themselves (%d)", d.APIKeys+d.OldAPIKeys, d.OldAPIKeys))
	}
	if d.Users > 0 {
		advice = append(advice, fmt.Sprintf("%s: have everybody choose another password", counted(d.Users, "user")))
	}
	if p.LeftUnseen > 0 {
		advice = append(advice, fmt.Sprintf("%s kept in files and not looked into: what they hold can still be read with the old key, so delete them in n8n as soon as nobody needs them", finishedAre(p.LeftUnseen)))
	}
	for i, h := range p.KeyFound {
		if i == 3 {
			break
		}
		advice = append(advice, fmt.Sprintf("the old key stands in clear in %s.%s, row %q, which may be how it leaked: take it out there", h.Table, h.Column, h.Row))
	}
	return advice
}
