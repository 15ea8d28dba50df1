package pgclient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// authority makes certificates into a folder that the server can read.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) issue(t *testing.T, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + " key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		a.key = key
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// TestTLS: a server with a certificate, client certificates, and the files of the DSN.
func TestTLS(t *testing.T) {
	dir, err := os.MkdirTemp("", "n8keep-tls-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, other := &authority{dir: dir}, &authority{dir: t.TempDir()}
	ca.issue(t, "ca")
	ca.issue(t, "server")
	ca.issue(t, "client")
	other.issue(t, "ca")
	if os.Geteuid() == 0 { // then the server runs as another user
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		for _, f := range []string{dir, ca.file("ca.pem"), ca.file("server.pem"), ca.file("server key.pem")} {
			if err := os.Chown(f, uid, -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	dsn := pgtest.New(t)
	execute(t, dsn, `ALTER SYSTEM SET ssl_cert_file = '`+ca.file("server.pem")+`'`, `ALTER SYSTEM SET ssl_key_file = '`+ca.file("server key.pem")+`'`,
		`ALTER SYSTEM SET ssl_ca_file = '`+ca.file("ca.pem")+`'`, `ALTER SYSTEM SET ssl = on`, `SELECT pg_reload_conf()`)
	t.Cleanup(func() { execute(t, dsn, `ALTER SYSTEM RESET ALL`, `SELECT pg_reload_conf()`) })
	strict := param(t, param(t, dsn, "sslmode", "verify-full"), "sslrootcert", ca.file("ca.pem"))
	await(t, "the server to speak TLS", func() bool {
		conn, err := pgx.Connect(t.Context(), strict)
		if err == nil {
			conn.Close(t.Context())
		}
		return err == nil
	})

	psql, err := pgtest.Program("psql")
	if err != nil {
		t.Fatal(err)
	}
	client := param(t, param(t, strict, "sslcert", ca.file("client.pem")), "sslkey", ca.file("client key.pem"))
	for d, want := range map[string]string{strict: "true|", client: "true|/CN=client", dsn: "false|"} {
		c, err := connect(d, "")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(psql, "-XAtw", "-d", c.conninfo, "-c", "SELECT ssl::text, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
		cmd.Env = environment(c.env...)
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %s %v, want %s", c.conninfo, out, err, want)
		}
		if err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: d, Out: io.Discard}); err != nil {
			t.Errorf("%s: %v", c.conninfo, err)
		}
	}
	err = Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: param(t, strict, "sslrootcert", other.file("ca.pem")), Out: io.Discard})
	if problem.KindOf(err) != problem.Unreachable || !strings.HasSuffix(err.Error(), "failed: SSL error: certificate verify failed") || !strings.Contains(problem.HintOf(err), "check sslmode, sslrootcert") {
		t.Errorf("another authority: %s %v, hint %q", problem.KindOf(err), err, problem.HintOf(err))
	}
	err = Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: param(t, strict, "sslrootcert", "/nowhere/it's.pem"), Out: io.Discard})
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), `root certificate file "/nowhere/it's.pem" does not exist`) || !strings.Contains(problem.HintOf(err), "check sslmode") {
		t.Errorf("no such file: %s %v, hint %q", problem.KindOf(err), err, problem.HintOf(err))
	}
}
