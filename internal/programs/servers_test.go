// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every test has a netns of its own, so all may use the same ports.
const (
	redisPort = "6379"
	httpPort  = "80"
	tlsPort   = "443"
)

// redis closes a client that is idle for a second: the client is named.
func TestRedis(t *testing.T) {
	t.Parallel()
	ns := newNetNS(t)
	serve(t, ns, "Ready to accept connections", installed["redis-server"],
		"--port", redisPort, "--bind", "127.0.0.1", "--timeout", "1", "--save", "", "--dir", t.TempDir())
	client := start(t, ns, installed["python3"], "testdata/client.py", "redis", redisPort)
	expect{remote: "127.0.0.1:" + redisPort, recvQ: unread}.check(t, ns, client.holds(1))
}

// nginx closes a connection that was kept alive and is not used.
func TestNginx(t *testing.T) {
	for _, c := range []struct{ kind, port string }{
		{"http", httpPort},
		{"tls1.3", tlsPort},
		{"ECDHE-ECDSA-AES256-GCM-SHA384", tlsPort}, // these are TLS 1.2's
		{"ECDHE-ECDSA-CHACHA20-POLY1305", tlsPort},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			ns := newNetNS(t)
			dir := t.TempDir()
			config := filepath.Join(dir, "nginx.conf")
			write(t, config, nginxConfig(t, dir))
			// The line comes when it listens.
			serve(t, ns, "start worker process", installed["nginx"], "-p", dir, "-e", "stderr", "-c", config)
			client := start(t, ns, installed["python3"], "testdata/client.py", c.kind, c.port)
			expect{remote: "127.0.0.1:" + c.port, recvQ: unread}.check(t, ns, client.holds(1))
		})
	}
}

// nginxConfig is for a server that needs nothing outside of dir.
func nginxConfig(t *testing.T, dir string) string {
	certificate(t, dir)
	var b strings.Builder
	fmt.Fprintf(&b, "daemon off;\npid %s/pid;\nerror_log stderr notice;\nworker_processes 1;\nuser root;\nevents {}\nhttp {\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	fmt.Fprintf(&b, "access_log off;\nkeepalive_timeout 1s;\nserver {\nlisten %s;\nlisten %s ssl;\n", httpPort, tlsPort)
	fmt.Fprintf(&b, "ssl_protocols TLSv1.2 TLSv1.3;\nssl_certificate %s/cert.pem;\nssl_certificate_key %s/key.pem;\n", dir, dir)
	b.WriteString("location / { return 200 \"hello\\n\"; }\n}\n}\n")
	return b.String()
}

// certificate makes one that signs itself.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		write(t, filepath.Join(dir, name), string(pem.EncodeToMemory(block)))
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
