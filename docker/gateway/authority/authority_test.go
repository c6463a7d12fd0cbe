package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// verified tells whether a client that trusts the root takes a certificate for that name which its key signed.
func verified(t *testing.T, data, name string) bool {
	t.Helper()
	root, err := load(data)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := block(key(data), "PRIVATE KEY")
	if err != nil {
		t.Fatal(err)
	}
	signer, _ := x509.ParsePKCS8PrivateKey(raw)
	own, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if address := net.ParseIP(name); address != nil {
		leaf.IPAddresses = []net.IP{address}
	} else {
		leaf.DNSNames = []string{name}
	}
	made, err := x509.CreateCertificate(rand.Reader, leaf, root, own.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, _ := x509.ParseCertificate(made)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	_, err = parsed.Verify(x509.VerifyOptions{Roots: pool})
	return err == nil
}

func TestTheRootIsGoodForTheGatewayAlone(t *testing.T) {
	for name, others := range map[string][]string{
		"203.0.113.7":     {"203.0.113.8", "evil.example", "10.0.0.1", "::1"},
		"lab.example.org": {"example.org", "evil.example", "lab.example.com", "203.0.113.7", "10.0.0.1"},
	} {
		data := t.TempDir()
		if err := Prepare(data, name, time.Now()); err != nil {
			t.Fatal(err)
		}
		for _, good := range []string{name, "localhost", "127.0.0.1"} {
			if !verified(t, data, good) {
				t.Errorf("%s: %s is refused", name, good)
			}
		}
		for _, foreign := range others {
			if verified(t, data, foreign) {
				t.Errorf("%s: %s is taken", name, foreign)
			}
		}
	}
}

func TestTheRootStaysUntilItsNameOrItsTimeIsAnother(t *testing.T) {
	data, now := t.TempDir(), time.Now()
	prepare := func(name string, at time.Time) string {
		t.Helper()
		if err := Prepare(data, name, at); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(Root(data))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	old := filepath.Join(data, "pki", "authorities", "local", "root.key")
	leaf := filepath.Join(data, "certificates", "local", "localhost", "localhost.crt")
	public := filepath.Join(data, "certificates", "acme-v02.api.letsencrypt.org-directory", "x.crt")
	fill := func() {
		for _, path := range []string{old, leaf, public} {
			if os.MkdirAll(filepath.Dir(path), 0o700) != nil || os.WriteFile(path, nil, 0o600) != nil {
				t.Fatal(path)
			}
		}
	}
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	fill() // of a version before
	first := prepare("203.0.113.7", now)
	if exists(old) || exists(leaf) || !exists(public) {
		t.Error("the root of the world is there still, or a public certificate is not")
	}
	fill()
	if prepare("203.0.113.7", now.Add(8*365*24*time.Hour)) != first || !exists(leaf) {
		t.Error("another root without a reason")
	}
	second := prepare("lab.example.org", now)
	if second == first || exists(leaf) || exists(old) || !exists(public) {
		t.Error("another name needs another root, and nothing of the former one")
	}
	late := now.Add(9*365*24*time.Hour + 48*time.Hour)
	before := prepare("lab.example.org", late)
	if before == second {
		t.Error("a root that ends soon is renewed")
	}
	for _, path := range []string{Root(data), key(data)} {
		if os.WriteFile(path, []byte("x"), 0o600) != nil {
			t.Fatal(path)
		}
		made := prepare("lab.example.org", late)
		if made == before {
			t.Errorf("%s is damaged and used", path)
		}
		before = made
	}
	if info, err := os.Stat(key(data)); err != nil || info.Mode().Perm() != 0o600 {
		t.Error("the key is open")
	}
}
