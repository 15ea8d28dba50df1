package rotate

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// What becomes of a secret that n8n derives from the instance key.
const (
	ByRows        = "rows"        // n8n keeps it in deployment_key, where it stays the same
	ByEnvironment = "environment" // it stays the same if Variable is set to what Obtain prints
	BySet         = "set already" // Variable is set in n8n's environment and stands above all
	Cannot        = "cannot"      // it changes with the key
	Ends          = "ends"        // it is made anew on purpose, after a leak
)

// Derived is such a secret in this n8n.
type Derived struct {
	Secret   string `json:"secret"` // as in deployment_key: "signing.jwt"; "telegram.webhook" is in no row
	How      string `json:"how"`    // one of the constants above
	Variable string `json:"variable,omitempty"`
	// Obtain is a shell command that prints the value for Variable from where the old
	// key is before the rotation. The value itself is never shown.
	Obtain string `json:"obtain,omitempty"`
	Effect string `json:"effect"`
}

// release is a version of n8n, major and minor.
type release struct{ major, minor int }

// derivation is a row of section 3 of what is known about n8n.
type derivation struct {
	secret        string
	since         release // n8n that has it
	variable      string  // that stands above the derived value, "" for none
	variableSince release
	row           string // type in deployment_key, "" for none
	// shell and node are how a person computes it. Shell reads the key from standard
	// input where it says so; both are for the old key.
	shell func(read string) string
	node  string
	value func(n8ncrypt.InstanceKey) string
	kept  func(n8ndb.Dependents) string
	ended func(n8ndb.Dependents) string
}

// derivations is the one table of what n8n derives from the instance key, n8n 0.x to
// 2.41. The instance key's wrap and the CBC key are derived, too, but what is under
// them is written anew.
func derivations() []derivation {
	const hash = " | openssl dgst -sha256 -r | cut -c1-64"
	return []derivation{
		{
			secret: "signing.jwt", variable: "N8N_USER_MANAGEMENT_JWT_SECRET", row: "signing.jwt",
			shell: func(read string) string { return read + ` | sed 's/\(.\)./\1/g' | tr -d '\n'` + hash },
			node:  `let s="";for(let i=0;i<k.length;i+=2)s+=k[i];console.log(c.createHash("sha256").update(s).digest("hex"))`,
			value: n8ncrypt.InstanceKey.SigningJWT,
			kept: func(d n8ndb.Dependents) string {
				return "people stay logged in" + also(d.APIKeys, "API key", "", "stay valid", "stays valid") + also(d.OAuthTokens, "OAuth token", "", "stay valid", "stays valid") +
					"; links of invitations and password resets, too"
			},
			ended: func(d n8ndb.Dependents) string {
				return "everybody has to log in again" + also(d.APIKeys, "API key", "", "end and have to be made anew", "ends and has to be made anew") +
					also(d.OAuthTokens, "OAuth token", "", "end", "ends") + "; open links of invitations and password resets are void"
			},
		},
		{
			secret: "signing.hmac", since: release{1, 110}, variable: "N8N_HMAC_SIGNATURE_SECRET", variableSince: release{1, 110}, row: "signing.hmac",
			shell: func(read string) string { return "{ printf hmac-signature:; " + read + "; }" + hash },
			node:  `console.log(c.createHash("sha256").update("hmac-signature:"+k).digest("hex"))`,
			value: n8ncrypt.InstanceKey.SigningHMAC,
			kept: func(n8ndb.Dependents) string {
				return "links in mails that ask for an approval or resume a workflow stay valid"
			},
			ended: func(n8ndb.Dependents) string {
				return "links in mails that ask for an approval or resume a workflow are void: whoever waits for an answer waits in vain"
			},
		},
		{
			secret: "signing.binary_data", since: release{1, 94}, variable: "N8N_BINARY_DATA_SIGNING_SECRET", variableSince: release{1, 94}, row: "signing.binary_data",
			shell: func(read string) string {
				return "{ printf url-signing:; " + read + "; } | openssl dgst -sha256 -binary | openssl base64"
			},
			node:  `console.log(c.createHash("sha256").update("url-signing:"+k).digest("base64"))`,
			value: n8ncrypt.InstanceKey.SigningBinaryData,
			kept:  func(n8ndb.Dependents) string { return "signed addresses of binary data stay valid" },
			ended: func(n8ndb.Dependents) string { return "signed addresses of binary data that were given out are void" },
		},
		{
			secret: "instance.id", variable: "N8N_INSTANCE_ID", variableSince: release{2, 18}, row: "instance.id",
			shell: func(read string) string {
				return `( k=$(` + read + `); printf %s "$k" | tail -c +$(( (${#k} + 1) / 2 + 1 ))` + hash + " )"
			},
			node:  `console.log(c.createHash("sha256").update(k.slice(Math.round(k.length/2))).digest("hex"))`,
			value: n8ncrypt.InstanceKey.InstanceID,
			kept: func(d n8ndb.Dependents) string {
				if d.Licence {
					return "n8n stays the same instance, also for its licence"
				}
				return "n8n stays the same instance"
			},
			ended: func(d n8ndb.Dependents) string {
				if d.Licence {
					return "n8n becomes another instance: its licence has to be activated again (have the activation key at hand; the old instance keeps a seat until it is released)"
				}
				return "n8n becomes another instance for telemetry; there is no licence that would mind"
			},
		},
		{
			secret: "telegram.webhook", since: release{2, 22},
			value: func(k n8ncrypt.InstanceKey) string { return k.TelegramWebhookSecret("agent", "credential") },
			ended: func(d n8ndb.Dependents) string {
				if d.TelegramAgents == 0 {
					return "no agent of this n8n uses Telegram"
				}
				return fmt.Sprintf("messages from Telegram to %s are refused until n8n has connected again, which it does when it starts", counted(d.TelegramAgents, "agent"))
			},
		},
	}
}

// also is a further clause of a sentence about n things, "" for none.
func also(n int64, one, many, verb, verbOne string) string {
	switch {
	case n == 0:
		return ""
	case n == 1:
		verb = verbOne
	}
	if many == "" {
		many = one + "s"
	}
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("; %d %s %s", n, many, verb)
}

// counted is a number with its noun.
func counted(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// derivedFacts is what decides about the derived secrets.
type derivedFacts struct {
	version    n8ndb.Version
	rows       []n8ndb.KeyRow
	env        func(string) (string, bool) // n8n's, nil when not known
	old        Key
	leak       bool
	dependents n8ndb.Dependents
}

// planDerived says of every derived secret of this n8n what becomes of it. It is a
// pure function.
func planDerived(f derivedFacts) (list []Derived, warnings []string) {
	version := f.version
	if version.N8N == "" {
		// Older than anything that leaves a trace. A variable that it does not know does no harm.
		version.N8N = "1.122"
	}
	for _, d := range derivations() {
		if version.Before(d.since.major, d.since.minor) {
			continue
		}
		row := false
		for _, r := range f.rows {
			row = row || d.row != "" && r.Type == d.row
		}
		set, value := false, ""
		hasVariable := d.variable != "" && !version.Before(d.variableSince.major, d.variableSince.minor)
		if hasVariable && f.env != nil {
			value, set = f.env(d.variable)
			set = set && value != ""
		}
		out := Derived{Secret: d.secret}
		switch {
		case d.row == "":
			out.How, out.Effect = Cannot, d.ended(f.dependents)
		case set:
			out.How, out.Variable, out.Effect = BySet, d.variable, d.kept(f.dependents)
			if d.secret == "instance.id" && len(value) < 32 && f.dependents.Licence {
				warnings = append(warnings, "N8N_INSTANCE_ID has fewer than 32 characters, so that n8n's licence goes by an id from the instance key, which changes: have the activation key at hand")
			}
			if f.leak && d.secret != "instance.id" {
				out.Effect += "; if somebody may know the value, set another one"
				warnings = append(warnings, fmt.Sprintf("%s is set in n8n's environment, where n8keep cannot change it: set a new value there if it may have leaked, too", d.variable))
			}
		case f.leak && d.secret != "instance.id":
			out.How, out.Effect = Ends, d.ended(f.dependents)
		case row:
			out.How, out.Effect = ByRows, d.kept(f.dependents)
		case hasVariable && !f.leak:
			out.How, out.Variable, out.Obtain = ByEnvironment, d.variable, obtain(d, f.old)
			out.Effect = "with the value of before, to be printed before the rotation and set before n8n starts: " + d.kept(f.dependents) + ". Without: " + d.ended(f.dependents)
		default:
			out.How, out.Effect = Cannot, d.ended(f.dependents)
		}
		list = append(list, out)
	}
	return list, warnings
}

// obtain is the command for a variable's value. Whoever runs it can read the key
// anyway; nothing of it becomes an argument of a program.
func obtain(d derivation, old Key) string {
	read := `printf %s "$N8N_ENCRYPTION_KEY"`
	text := old.Key.Reveal()
	switch path := shellQuote(old.Path); {
	case old.Path == "":
	case filepath.Base(old.Path) == "config" && strings.ContainsAny(text, `"\`):
		read = `node -e 'process.stdout.write(JSON.parse(require("fs").readFileSync(process.argv[1],"utf8")).encryptionKey)' ` + path
	case filepath.Base(old.Path) == "config":
		read = `sed -n 's/.*"encryptionKey": *"\([^"]*\)".*/\1/p' ` + path + ` | tr -d '\n'`
	default:
		read = "tr -d '\\n' <" + path
	}
	for _, r := range text {
		if r > 0x7e { // bytes are not characters then
			return read + ` | node -e 'const c=require("crypto"),k=require("fs").readFileSync(0,"utf8");` + d.node + `'`
		}
	}
	return d.shell(read)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
