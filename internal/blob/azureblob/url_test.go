package azureblob

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func parse(t *testing.T, text string) (Config, error) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(u, cloudtest.Env())
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Config{
		"azure://account1/backups":   {Account: "account1", Container: "backups"},
		"azure://account1/my-c/a/b/": {Account: "account1", Container: "my-c", Prefix: "a/b/"},
		"azure://acc/cont?endpoint=http://127.0.0.1:10000/acc&credentials=file:/etc/sas":     {Account: "acc", Container: "cont", Endpoint: "http://127.0.0.1:10000/acc", Credentials: "file:/etc/sas"},
		"azure://acc/cont?retain=7d&lock=governance&storage_class=cool&credentials=identity": {Account: "acc", Container: "cont", Retain: 7 * 24 * time.Hour, Lock: "governance", Tier: "cool", Credentials: "identity"},
	} {
		got, err := parse(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Env", "Now", "Retry", "Transport")); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"azure://acc":                                     "target azure://...: the container is not 3 to 63 lower-case letters, digits and single hyphens",
		"azure://acc/Geheim":                              "target azure://...: the container is not 3 to 63 lower-case letters, digits and single hyphens",
		"azure:///cont":                                   "target azure://...: the account is not 3 to 24 lower-case letters and digits",
		"azure://acc.blob.core.windows.net/c":             "target azure://...: a host name where the account's name belongs",
		"azure://acc:geheim@x/cont":                       "target azure://...: a password inside the URL",
		"azure://geheim@acc/cont":                         "target azure://...: a user inside the URL",
		"azure://acc/cont?sp=c&se=2030&sig=geheim":        `target azure://...: the secret parameter "sp" inside the URL`,
		"azure://acc/cont?sig=geheim":                     `target azure://...: the secret parameter "sig" inside the URL`,
		"azure://acc/cont?account_key=geheim":             `target azure://...: the secret parameter "account_key" inside the URL`,
		"azure://acc/cont?region=geheim":                  `target azure://...: unknown parameter "region"`,
		"azure://acc/cont?credentials=geheim":             `target azure://...: parameter "credentials": want "env", "identity", "none" or "file:PATH"`,
		"azure://acc/cont?storage_class=geheim":           `target azure://...: parameter "storage_class": want hot or cool or cold`,
		"azure://acc/cont?endpoint=https://e/?sig=geheim": `target azure://...: parameter "endpoint": want a URL like "https://storage.example.com", without user and parameters`,
	} {
		_, err := parse(t, text)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if problem.KindOf(err) != problem.Usage || strings.Contains(problem.HintOf(err)+err.Error(), "geheim") {
			t.Errorf("%s: kind %s, hint %q", text, problem.KindOf(err), problem.HintOf(err))
		}
		if strings.Contains(want, "secret") && problem.HintOf(err) != whereSecretsBelong {
			t.Errorf("%s: hint %q", text, problem.HintOf(err))
		}
	}
}

// Every way in that does not need Azure itself.
func TestCredentials(t *testing.T) {
	a := cloudtest.NewAzure(t)
	dir := t.TempDir()
	sas := a.SAS(t, "rwdlc", time.Hour)
	ways := map[string]string{
		"key":                    a.Key + "\n",
		"signature":              sas,
		"signature with mark":    "?" + sas + "\n",
		"whole URL":              a.URL + "/" + a.Container + "?" + sas,
		"connection string":      "DefaultEndpointsProtocol=http;AccountName=" + cloudtest.AzureAccount + ";AccountKey=" + a.Key + ";BlobEndpoint=" + a.URL,
		"connection string, SAS": "BlobEndpoint=" + a.URL + "/;SharedAccessSignature=" + sas,
	}
	for name, text := range ways {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := config(a)
		cfg.Credentials, cfg.Env = "file:"+path, cloudtest.Env()
		if strings.HasPrefix(name, "connection") {
			cfg.Endpoint = ""
		}
		object := strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", "")
		if _, err := open(t, cfg).Put(t.Context(), object, strings.NewReader("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_KEY"} {
		text := map[string]string{"AZURE_STORAGE_CONNECTION_STRING": ways["connection string"], "AZURE_STORAGE_SAS_TOKEN": sas, "AZURE_STORAGE_KEY": a.Key}[name]
		cfg := config(a)
		cfg.Env = cloudtest.Env(name, text)
		if names := blobtest.Names(t, open(t, cfg), ""); len(names) != len(ways) {
			t.Errorf("%s: %q", name, names)
		}
	}
}

func TestCredentialErrors(t *testing.T) {
	a := cloudtest.NewAzure(t)
	for text, want := range map[string]string{
		" ":       "it is empty",
		"geheim!": "it is neither a connection string nor a shared access signature nor an account key",
		"sv=1&se=2020-01-31T00:00:00Z&sig=geheim": "the shared access signature expired on 2020-01-31",
		"sig=%zzgeheim":                         "the shared access signature is not complete",
		"AccountName=another;AccountKey=geheim": `the connection string is for the account "another", the URL names "n8keeptest"`,
	} {
		cfg := config(a)
		cfg.Env = cloudtest.Env("AZURE_STORAGE_KEY", text)
		_, err := New(t.Context(), cfg)
		if err == nil || !strings.HasSuffix(err.Error(), ": reading the variable AZURE_STORAGE_KEY: "+want) || problem.HintOf(err) != whereSecretsBelong || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v", text, err)
		}
	}
	cfg := config(a)
	cfg.Credentials = "file:" + t.TempDir() + "/missing"
	if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `/missing": no such file or directory`) {
		t.Errorf("%v", err)
	}
	cfg = config(a)
	cfg.Env = cloudtest.Env("AZURE_STORAGE_CONNECTION_STRING", "AccountName=n8keeptest;AccountKey=not base64 geheim")
	if _, err := New(t.Context(), cfg); err == nil || !strings.HasSuffix(err.Error(), "the credentials or the endpoint cannot be used") {
		t.Errorf("%v", err)
	}
}

func TestErrorTexts(t *testing.T) {
	a := cloudtest.NewAzure(t)
	cfg := config(a)
	cfg.Container = "no-such-container"
	s := open(t, cfg)
	_, err := s.Put(t.Context(), "a", strings.NewReader("x"))
	if err == nil || !strings.Contains(err.Error(), `storing "a" in "azure://n8keeptest/no-such-container/backups/n8n?endpoint=`+a.URL+`": the server answers 404 ContainerNotFound: The specified container does not exist`) ||
		problem.HintOf(err) != "make the container first, or correct its name: az storage container create --account-name n8keeptest --name no-such-container" {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	if _, err := s.Stat(t.Context(), "a"); problem.KindOf(err) != problem.Unreachable || !strings.HasPrefix(err.Error(), "looking for") {
		t.Errorf("Stat: %v", err)
	}
	cfg = config(a)
	cfg.Env = cloudtest.Env("AZURE_STORAGE_KEY", "d3Jvbmd3cm9uZ3dyb25nd3Jvbmc=")
	_, err = open(t, cfg).Put(t.Context(), "a", strings.NewReader("x"))
	if problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) == "" || strings.Contains(err.Error(), "d3Jvbmd") || strings.Contains(err.Error(), "\n") {
		t.Errorf("wrong key: %v, hint %q", err, problem.HintOf(err))
	}
	cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, "l", time.Hour))
	_, err = open(t, cfg).Put(t.Context(), "a", strings.NewReader("x"))
	if problem.KindOf(err) != problem.Unreachable || !strings.HasPrefix(problem.HintOf(err), "see what this identity may do: n8keep target check 'azure://n8keeptest/") {
		t.Errorf("list only: %v, hint %q", err, problem.HintOf(err))
	}
	locked := config(a)
	s = open(t, locked)
	if err := s.fail(&apiError{Status: http.StatusConflict, Code: "locked", Message: "it is locked until 2031-01-01 00:00:00", hint: "retention keeps it until then"}, "deleting %q", "a"); err.Error() != `deleting "a": it is locked until 2031-01-01 00:00:00` || problem.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// The test server keeps no versions: these are the rules alone.
func TestPick(t *testing.T) {
	s := open(t, config(cloudtest.NewAzure(t)))
	at := func(day int) time.Time { return time.Date(2026, 8, day, 0, 0, 0, 0, time.UTC) }
	first := version{full: "backups/n8n/a", id: "2026-08-01", size: 5, time: at(1), locked: at(1).AddDate(100, 0, 0)}
	second := version{full: "backups/n8n/a", id: "2026-08-02", size: 6, time: at(2), current: true}
	dead := second
	dead.current = false
	alone := first
	alone.current = true
	for want, group := range map[string][]version{
		"": {alone}, "deleted, but still kept as a version": {first},
		"overwritten on 2026-08-02 00:00:00; this is what was put first":             {second, first},
		"overwritten on 2026-08-02 00:00:00 and deleted; this is what was put first": {dead, first},
	} {
		if v, info := s.pick(group); v.id != "2026-08-01" || info.Altered != want || info.Name != "a" || info.Size != 5 || !info.LockedUntil.Equal(first.locked) {
			t.Errorf("%q: %+v", want, info)
		}
	}
}

func TestPolicy(t *testing.T) {
	cfg, err := parse(t, "azure://acc/cont?retain=1d&lock=governance")
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[blob.Role][]string{
		blob.Writer:   {"blobs/add/action\"", "--permissions ci ", "5000 MiB", "default policy"},
		blob.Restorer: {"blobs/read\"", "--permissions rl ", "containers/cont"},
		blob.Pruner:   {"deleteBlobVersion/action", "--permissions rldx "},
	} {
		got, err := Policy(cfg, role)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s lacks %q:\n%s", role, w, got)
			}
		}
	}
	cfg.Retain = 0
	if got, err := Policy(cfg, blob.Writer); err != nil || !strings.Contains(got, "--permissions c ") || strings.Contains(got, "immutableStorage") {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := Policy(cfg, "king"); err == nil || err.Error() != `no role is called "king"` {
		t.Errorf("%v", err)
	}
}

// Permissions of signatures are really enforced by the test server.
func TestProbe(t *testing.T) {
	for permissions, want := range map[string]string{ // put get list overwrite delete hide shorten
		"rwdlc": "yes yes yes yes yes not applicable/not applicable",
		"c":     "yes no no no no no/not applicable",
		"rl":    "no yes yes unknown unknown unknown/not applicable",
	} {
		a := cloudtest.NewAzure(t)
		cfg := config(a)
		cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, permissions, time.Hour))
		trials, err := open(t, cfg).Probe(t.Context(), "canary")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, c := range blob.Capabilities() {
			if trials[i].Capability != c {
				t.Errorf("trial %d is of %q", i, trials[i].Capability)
			}
			got = append(got, string(trials[i].Answer))
		}
		if text := strings.Join(got[:6], " ") + "/" + got[6]; text != want {
			t.Errorf("%s: got  %s\nwant %s\n%+v", permissions, text, want, trials)
		}
		_, err = open(t, config(a)).Stat(t.Context(), "canary")
		if stays := permissions == "c"; (err == nil) != stays || stays && !strings.Contains(trials[4].Detail, "the canary canary stays") {
			t.Errorf("%s: the canary: %v; %+v", permissions, err, trials[4])
		}
	}
	cfg := config(cloudtest.NewAzure(t))
	cfg.Container = "no-such-container"
	if _, err := open(t, cfg).Probe(t.Context(), "canary"); err == nil || !strings.Contains(err.Error(), "trying out") {
		t.Errorf("without a container: %v", err)
	}
}
