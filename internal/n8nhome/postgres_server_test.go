package n8nhome

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(failtest.Main(func() int { return pgtest.Main(m) }, keyFileJob.do))
}

// variables are n8n's for the database of dsn.
func variables(t *testing.T, dsn string) map[string]string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	host, port := u.Hostname(), u.Port()
	if host == "" {
		host, port = u.Query().Get("host"), u.Query().Get("port")
	}
	return map[string]string{"DB_TYPE": "postgresdb", "DB_POSTGRESDB_HOST": host, "DB_POSTGRESDB_PORT": port, "DB_POSTGRESDB_USER": u.User.Username(),
		"DB_POSTGRESDB_DATABASE": u.Path[1:], "DB_POSTGRESDB_PASSWORD": password}
}

// ask logs in twice, as pgx and as PostgreSQL's own psql do, and says whether TLS
// and a client's certificate were used.
func ask(t *testing.T, env map[string]string) (string, error) {
	t.Helper()
	c, err := Postgres(mapEnv(env))
	if err != nil {
		t.Fatal(err)
	}
	dsn, err := c.DSN()
	if err != nil {
		t.Fatal(err)
	}
	const query = `SELECT current_user || ' ssl ' || ssl || ' ' || coalesce(client_dn, '-') FROM pg_stat_ssl WHERE pid = pg_backend_pid()`
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn.Reveal())
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var answer string
	if err := conn.QueryRow(ctx, query).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	psql, err := pgtest.Program("psql")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(u.User.Username())
	cmd := exec.CommandContext(ctx, psql, "-XAtw", "-d", u.String(), "-c", query)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nowhere", "PGPASSWORD=" + c.Password.Reveal()}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != answer {
		t.Errorf("psql: %s %v; pgx: %s", out, err, answer)
	}
	return answer, nil
}

func TestPostgresSocket(t *testing.T) {
	dsn := pgtest.New(t)
	if got, err := ask(t, variables(t, dsn)); got != "postgres ssl false -" || err != nil {
		t.Error(got, err)
	}
	if got, err := ask(t, variables(t, pgtest.SocketDSN(t, dsn))); got != "postgres ssl false -" || err != nil {
		t.Error(got, err)
	}
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (a authority) issue(t *testing.T, name string, addresses ...net.IP) (cert, key string) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: addresses, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// TestPostgresTLS turns TLS on in the test server, with a role that must show a
// certificate.
func TestPostgresTLS(t *testing.T) {
	dsn := pgtest.New(t)
	role := pgtest.Role(t, dsn, "")
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, "server", net.IPv4(127, 0, 0, 1))
	roleName := variables(t, role)["DB_POSTGRESDB_USER"]
	clientCert, clientKey := ca.issue(t, roleName)
	otherCA := newAuthority(t)
	otherCert, otherKey := otherCA.issue(t, roleName)

	ctx := t.Context()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var data, hba string
	if err := conn.QueryRow(ctx, `SELECT current_setting('data_directory'), current_setting('hba_file')`).Scan(&data, &hba); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	put := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(data, "test.crt"), serverCert)
	put(filepath.Join(data, "test.key"), serverKey)
	put(filepath.Join(data, "test-ca.crt"), ca.pem)
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	put(hba, "hostssl all "+roleName+" 127.0.0.1/32 scram-sha-256 clientcert=verify-full\nhostnossl all "+roleName+" all reject\n"+string(rules))
	for _, s := range []string{"ssl_cert_file = 'test.crt'", "ssl_key_file = 'test.key'", "ssl_ca_file = 'test-ca.crt'", "ssl = on"} {
		if _, err := conn.Exec(ctx, "ALTER SYSTEM SET "+s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	base := variables(t, dsn)
	with := func(env map[string]string, more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range env {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out["DB_POSTGRESDB_SSL_"+more[i]] = more[i+1]
		}
		return out
	}
	// The server reads its settings anew when it gets to it.
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := Postgres(mapEnv(with(base, "REJECT_UNAUTHORIZED", "false")))
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.DSN()
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := pgx.Connect(ctx, d.Reveal()); err == nil {
			conn.Close(ctx)
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, []byte(ca.pem), 0o644); err != nil {
		t.Fatal(err)
	}
	user := variables(t, role)
	own := roleName + " ssl true /CN=" + roleName
	for _, tt := range []struct {
		name      string
		env       map[string]string
		want, err string
	}{
		{"without", base, "postgres ssl false -", ""},
		{"unverified", with(base, "REJECT_UNAUTHORIZED", "false"), "postgres ssl true -", ""},
		{"own CA", with(base, "CA", ca.pem), "postgres ssl true -", ""},
		{"own CA in a file", with(base, "CA_FILE", caFile, "ENABLED", "true"), "postgres ssl true -", ""},
		{"system's CAs", with(base, "ENABLED", "true"), "", "certificate"},
		{"another CA", with(base, "CA", otherCA.pem), "", "certificate"},
		{"another CA, unverified", with(base, "CA", otherCA.pem, "REJECT_UNAUTHORIZED", "false"), "postgres ssl true -", ""},
		{"certificate", with(user, "CA", ca.pem, "CERT", clientCert, "KEY", clientKey), own, ""},
		{"certificate, unverified server", with(user, "CERT", clientCert, "KEY", clientKey, "REJECT_UNAUTHORIZED", "false"), own, ""},
		{"no certificate", with(user, "CA", ca.pem), "", "certificate"},
		{"certificate of another CA", with(user, "CA", ca.pem, "CERT", otherCert, "KEY", otherKey), "", ""},
		{"role without TLS", user, "", "rejects connection"},
	} {
		got, err := ask(t, tt.env)
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), tt.env["DB_POSTGRESDB_PASSWORD"]) || strings.Contains(err.Error(), "PRIVATE KEY")) {
			t.Errorf("%s: the error shows a secret", tt.name)
		}
	}
}
