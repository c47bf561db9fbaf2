package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a certificate authority of gates. CA is the path of its certificate.
type Authority struct {
	CA string

	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes an authority whose files are in a directory.
func NewAuthority(t testing.TB, dir string) *Authority {
	t.Helper()
	a := newAuthority(t, dir, "gates")
	a.Renew(t, a.certificate.NotAfter)
	return a
}

// Under makes an authority whose certificate this one has signed, and whose files are in another
// directory. The certificate is valid until a time.
func (a *Authority) Under(t testing.TB, dir string, until time.Time) *Authority {
	t.Helper()
	below := newAuthority(t, dir, "some gates")
	below.certificate.NotAfter = until
	below.write(t, below.CA, "CERTIFICATE", a.sign(t, below.certificate, &below.key.PublicKey))
	return below
}

func newAuthority(t testing.TB, dir, name string) *Authority {
	t.Helper()
	return &Authority{dir: dir, CA: filepath.Join(dir, "ca.pem"), key: newKey(t), certificate: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
}

// Renew replaces the authority's certificate with one that ends at another time.
func (a *Authority) Renew(t testing.TB, until time.Time) {
	t.Helper()
	a.certificate.NotAfter = until
	a.write(t, a.CA, "CERTIFICATE", a.sign(t, a.certificate, &a.key.PublicKey))
}

// Issue writes a certificate for the given DNS names, and its key, to files called after name, in
// the place of earlier ones. edit, if not nil, changes the certificate before it is signed.
func (a *Authority) Issue(t testing.TB, name string, edit func(*x509.Certificate), names ...string) (cert, key string) {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if edit != nil {
		edit(c)
	}

	private := newKey(t)
	encoded, err := x509.MarshalECPrivateKey(private)
	Must(t, err)
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	a.write(t, key, "EC PRIVATE KEY", encoded)
	a.write(t, cert, "CERTIFICATE", a.sign(t, c, &private.PublicKey))
	return cert, key
}

func (a *Authority) sign(t testing.TB, c *x509.Certificate, key *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, a.certificate, key, a.key)
	Must(t, err)
	return der
}

// write replaces a file.
func (a *Authority) write(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	Must(t, os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	Must(t, os.Rename(path+".new", path))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Must(t, err)
	return key
}
