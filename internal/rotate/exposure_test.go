package rotate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

func leaked4(cfg *PlanConfig) { cfg.Choices.AfterLeak = true }

func TestExposureOfCredentials(t *testing.T) {
	for _, name := range []string{"1.123.81-sqlite", "2.38.7-sqlite", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			f := newPlanned(t, name, false)
			p := f.plan(t, leaked4)
			if err := p.Refused(); err != nil {
				t.Fatal(err)
			}
			credentials, used := 0, map[string]string{}
			for _, e := range p.Exposed {
				if e.Do == "" || e.Count == 0 {
					t.Errorf("%+v", e)
				}
				if e.Kind != "credential" {
					continue
				}
				credentials++
				for _, w := range e.Workflows {
					used[e.Name] = fmt.Sprintf("%s %.2s %t", e.Type, w.Name, w.Active)
				}
				if len(e.Workflows) == 0 && !strings.HasPrefix(e.Do, "revoke the secret at its provider; nothing uses it") {
					t.Errorf("%+v", e)
				}
			}
			if credentials != len(f.f.Credentials) || credentials == 0 {
				t.Errorf("%d credentials, want %d", credentials, len(f.f.Credentials))
			}
			if used["Header auth (echo)"] != "httpHeaderAuth W1 true" || used["Slack bot"] != "slackApi W3 false" {
				t.Errorf("%q", used)
			}
		})
	}
}

func TestExposureOfEveryPlace(t *testing.T) {
	f := newPlanned(t, "2.41.1-sqlite", true)
	p := f.plan(t, leaked4)
	got := map[string]string{}
	for _, e := range p.Exposed {
		if e.Kind != "credential" {
			got[e.Type] = fmt.Sprintf("%s %d %t", e.Kind, e.Count, e.Replaced)
		}
	}
	want := map[string]string{
		"MFA secret": "user.mfaSecret 1 false", "MFA recovery code": "user.mfaRecoveryCodes 10 false",
		"LDAP password":                    "settings[features.ldap].bindingAdminPassword 1 false",
		"external secrets provider":        "secrets_provider_connection.encryptedSettings 1 false",
		"Git deploy key":                   "settings[features.sourceControl.sshKeys].encryptedPrivateKey 1 false",
		"Git login":                        "settings[features.sourceControl.httpsCredentials].encryptedUsername 2 false",
		"OIDC client secret":               "settings[features.oidc].clientSecret 1 false",
		"SAML signing key":                 "settings[features.saml].signingPrivateKey 1 false",
		"credentials overwrite":            "settings[credentialsOverwrite] 1 false",
		"dynamic credential resolver":      "dynamic_credential_resolver.config 1 false",
		"dynamic credential":               "dynamic_credential_entry.data 1 false",
		"dynamic credential of a user":     "dynamic_credential_user_entry.data 1 false",
		"Git connection":                   "git_connection.encryptedPrivateKey 3 false",
		"promotion provider":               "promotion_provider.auth 1 false",
		"identity in an execution":         "execution_data.data[credentials] 9 false",
		"identity in an execution on disk": "bundle.json[credentials] 3 false",
		"identity in a finished execution": "execution_data.data[credentials] 3 false",
		"JWE key":                          "deployment_key[jwe.private-key] 2 false",
		"OAuth server signing key":         "deployment_key[oauth-server.signing-key] 1 false",
		"data key":                         "deployment_key[data_encryption/aes-256-gcm] 4 true",
		"signing.jwt":                      "derived 1 true", "signing.hmac": "derived 1 true", "signing.binary_data": "derived 1 true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{
		"archives of before the rotation can still be read with the leaked key and their identity: keep the identity away, and let them go when you can",
		"API keys stand in clear in the database (1): delete them in n8n and make new ones; those of before 1.66 do not end by themselves (0)",
		"1 user: have everybody choose another password",
	} {
		wantText(t, p.ExposedAdvice, want)
	}
	wantText(t, p.Effects, "1 finished execution left under data keys that could be read with the old key, with 2 values (--executions all takes them along)")
	wantText(t, p.Effects, "every value is encrypted under a new data key, which the new instance key wraps")
	wantText(t, p.Effects, "1 user with a second factor has to log in again, whatever becomes of the other sessions")
	for _, d := range p.Derived {
		if strings.HasPrefix(d.Secret, "signing.") && d.How != Ends {
			t.Errorf("%+v", d)
		}
	}
	// Every row of the catalogue is on the list, or is known not to belong there.
	listed := map[int]bool{1: true, 19: true, 20: true, 21: true, 22: true}
	for _, l := range leakedPlaces() {
		listed[l.number] = true
	}
	for _, place := range n8ndb.Catalogue() {
		if !listed[place.Number] {
			t.Errorf("what to do about %s after a leak?", place.ID)
		}
	}
}

func TestExposureAsSetInTheEnvironment(t *testing.T) {
	f := newPlanned(t, "2.38.7-sqlite-keyrotation", false)
	p := f.plan(t, func(cfg *PlanConfig) {
		cfg.Choices.AfterLeak = true
		cfg.Env = func(name string) (string, bool) { return "x", name == "N8N_USER_MANAGEMENT_JWT_SECRET" }
	})
	seen := 0
	for _, e := range p.Exposed {
		switch e.Type {
		case "signing.jwt":
			seen++
			if e.Kind != "environment" || e.Replaced || e.Do != "it is not in the database; set another value for N8N_USER_MANAGEMENT_JWT_SECRET if the environment leaked, too" {
				t.Errorf("%+v", e)
			}
		case "data key":
			seen++
			if e.Replaced || e.Do != "first \"n8keep rotate finalise\", then make a new one with \"n8keep data-key rotate\", which is refused (exit 11) before: the active one stays active, and n8n encrypts with it wherever its key rotation is on; what is under these is encrypted with the instance key now" {
				t.Errorf("%+v", e)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d of 2 seen", seen)
	}
}

// TestDataKeyThatStays: only n8n 2.39 and later can be given another data key by the rotation itself.
func TestDataKeyThatStays(t *testing.T) {
	const stays = "the data key that n8n has now stays its active one"
	says := func(p *Plan) (effect bool, do string) {
		for _, e := range p.Exposed {
			if e.Type == "data key" {
				do = e.Do
			}
		}
		if leaves := strings.Contains(do, "data-key rotate"); p.LeavesDataKey != leaves {
			t.Errorf("%t, and %q", p.LeavesDataKey, do)
		}
		return strings.Contains(strings.Join(p.Effects, "\n"), stays), do
	}
	f := newPlanned(t, "2.38.7-sqlite-keyrotation", false)
	for _, flag := range []string{"on", "off", ""} {
		effect, do := says(f.plan(t, func(cfg *PlanConfig) { cfg.KeyRotation, cfg.Choices.AfterLeak = flag, true }))
		if !effect || !strings.HasPrefix(do, "first \"n8keep rotate finalise\", then make a new one with \"n8keep data-key rotate\"") {
			t.Errorf("flag %q: %t, %q", flag, effect, do)
		}
	}
	if effect, _ := says(f.plan(t, nil)); effect {
		t.Error("without a leak the data key is as good as before")
	}
	f.exec(t, `UPDATE deployment_key SET status = 'inactive' WHERE type = 'data_encryption'`)
	if effect, do := says(f.plan(t, leaked4)); effect || do != "what is under these is encrypted with the instance key now, and none is active" {
		t.Errorf("%t, %q", effect, do)
	}
	if effect, do := says(newPlanned(t, "2.41.1-sqlite-keyrotation", false).plan(t, leaked4)); effect || strings.Contains(do, "data-key rotate") {
		t.Errorf("%t, %q", effect, do)
	}
}

// TestFinishedAfterLeak: what stays under leaked keys is counted, whichever kind they are.
func TestFinishedAfterLeak(t *testing.T) {
	f := newPlanned(t, "2.41.1-sqlite", true)
	counted := func(change func(*PlanConfig)) (finished *Exposed, p *Plan) {
		p = f.plan(t, change)
		for i, e := range p.Exposed {
			if e.Type == "identity in a finished execution" {
				finished = &p.Exposed[i]
			}
		}
		return finished, p
	}
	e, p := counted(leaked4)
	if p.LeftBehind == 0 || p.LeftValues == 0 || p.LeftKeyed == 0 || p.LeftKeyedValues == 0 {
		t.Errorf("%d executions with %d values, %d with %d under data keys", p.LeftBehind, p.LeftValues, p.LeftKeyed, p.LeftKeyedValues)
	}
	if e == nil || e.Count != p.LeftValues+p.LeftKeyedValues || e.Replaced ||
		e.Do != "it stays under keys that leaked: delete these executions in n8n, or take them along with --executions all; the tokens of whoever started them: end their sessions at the identity provider" {
		t.Errorf("%+v", e)
	}
	if e, p := counted(func(cfg *PlanConfig) { cfg.Choices.AfterLeak, cfg.Choices.Executions = true, n8ndb.AllExecutions }); e != nil || p.LeftKeyed != 0 {
		t.Errorf("%+v, %d", e, p.LeftKeyed)
	}
	if _, p := counted(nil); p.LeftKeyed != 0 {
		t.Errorf("%d under data keys that nobody knows", p.LeftKeyed)
	}
	f.exec(t, `UPDATE execution_entity SET "storedAt" = 'fs' WHERE "finished"`)
	_, p = counted(leaked4)
	wantText(t, p.ExposedAdvice, "5 finished executions are kept in files and not looked into: what they hold can still be read with the old key, so delete them in n8n as soon as nobody needs them")
}
