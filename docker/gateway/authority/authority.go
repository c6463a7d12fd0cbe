// Package authority makes the root of the gateway's own CA. Caddy's would be good for every name of the world, and who
// imports it into a browser trusts this machine with all of them: ours is good for the gateway's name, localhost and
// 127.0.0.1 (RFC 5280, name constraints, critical).
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	lifetime = 10 * 365 * 24 * time.Hour
	renewal  = 365 * 24 * time.Hour // before its end
)

// Root is where the certificate lies below the data folder; its key lies beside it.
func Root(data string) string { return filepath.Join(data, "authority", "root.crt") }

func key(data string) string { return filepath.Join(data, "authority", "root.key") }

// Prepare makes sure that there is a root for this name. With a new one, everything that Caddy made with a former one
// (or with its own) is deleted first, keys above all: clients may trust it still.
func Prepare(data, name string, now time.Time) error {
	found, err := load(data)
	if err == nil && fits(found, name, now) {
		return nil
	}
	for _, folder := range []string{"pki/authorities", "certificates"} {
		if err := os.RemoveAll(filepath.Join(data, folder, "local")); err != nil {
			return err
		}
	}
	return create(data, name, now)
}

// names are the DNS names and addresses that certificates may be for.
func names(name string) ([]string, []*net.IPNet) {
	domains := []string{"localhost"}
	addresses := []*net.IPNet{{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}}
	if address := net.ParseIP(name); address != nil {
		bits := 128
		if four := address.To4(); four != nil {
			address, bits = four, 32
		}
		addresses = append(addresses, &net.IPNet{IP: address, Mask: net.CIDRMask(bits, bits)})
	} else if name != "" {
		domains = append(domains, name)
	}
	return domains, addresses
}

func fits(root *x509.Certificate, name string, now time.Time) bool {
	domains, addresses := names(name)
	same := slices.EqualFunc(root.PermittedIPRanges, addresses, func(a, b *net.IPNet) bool { return a.String() == b.String() })
	return same && slices.Equal(root.PermittedDNSDomains, domains) && root.PermittedDNSDomainsCritical && root.IsCA &&
		now.After(root.NotBefore) && now.Before(root.NotAfter.Add(-renewal))
}

// load gives the root, an error where it or its key is missing, damaged or another one's.
func load(data string) (*x509.Certificate, error) {
	certificate, err := block(Root(data), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	private, err := block(key(data), "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	if own, ok := parsed.(*ecdsa.PrivateKey); !ok || !own.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("the key is not the root's")
	}
	return root, nil
}

func block(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found, _ := pem.Decode(text)
	if found == nil || found.Type != kind {
		return nil, fmt.Errorf("%s holds no %s", path, kind)
	}
	return found.Bytes, nil
}

func create(data, name string, now time.Time) error {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	domains, addresses := names(name)
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: "Trackbed root " + name},
		NotBefore:    now.Add(-time.Hour), // clocks differ
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, // no mail, no programs
		IsCA:         true, BasicConstraintsValid: true, MaxPathLen: 1,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         domains, PermittedIPRanges: addresses,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, made.Public(), made)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(Root(data)), 0o700); err != nil {
		return err
	}
	if err := write(key(data), "PRIVATE KEY", private); err != nil {
		return err
	}
	return write(Root(data), "CERTIFICATE", raw)
}

func write(path, kind string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := pem.Encode(file, &pem.Block{Type: kind, Bytes: content}); err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
