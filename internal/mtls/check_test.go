package mtls_test

import (
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/testenv"
)

var must = testenv.Must

// The file of a certificate can also have the certificates between it and the authority's. While
// the authority's certificate is replaced, the authority's file has both the old one and the new
// one.
func TestTheChainThatOtherGatesAccept(t *testing.T) {
	top := testenv.NewAuthority(t, t.TempDir())
	below := top.Under(t, t.TempDir(), time.Now().Add(time.Hour))
	cert, key := below.Issue(t, "host-a", nil, "host-a")
	chain := func() ([]*x509.Certificate, error) {
		identity, err := mtls.New(cert, key, top.CA)
		must(t, err)
		_, above, err := identity.Chain(x509.ExtKeyUsageClientAuth)
		return above, err
	}

	if _, err := chain(); err == nil || !strings.HasSuffix(err.Error(), ": the authority of "+top.CA+" has not signed it") {
		t.Errorf("without the certificate between: %v", err)
	}
	join(t, cert, cert, below.CA)
	if above, err := chain(); err != nil || len(above) != 2 || above[1].Subject.CommonName != "gates" {
		t.Errorf("%d above it, %v", len(above), err)
	}

	// The authority gets a second certificate, which ends later. Its file has both.
	cert, key = top.Issue(t, "host-a", nil, "host-a")
	old, err := os.ReadFile(top.CA)
	must(t, err)
	later := time.Now().Add(1000 * time.Hour).Truncate(time.Second)
	top.Renew(t, later)
	before := t.TempDir() + "/old"
	must(t, os.WriteFile(before, old, 0o600))
	join(t, top.CA, before, top.CA)
	if above, err := chain(); err != nil || len(above) != 1 || !above[0].NotAfter.Equal(later) {
		t.Errorf("of two certificates of the authority, the one that ends later does not count: %v", err)
	}
}

func TestTheFileWhoseCertificateHasEndedIsNamed(t *testing.T) {
	top := testenv.NewAuthority(t, t.TempDir())
	ended := time.Now().Add(-time.Hour).Truncate(time.Second)
	below := top.Under(t, t.TempDir(), ended)
	cert, key := below.Issue(t, "host-a", nil, "host-a")
	join(t, cert, cert, below.CA)

	identity, err := mtls.New(cert, key, top.CA)
	must(t, err)
	_, _, err = identity.Chain(x509.ExtKeyUsageClientAuth)
	want := "certificate of the signing authority, in " + cert + ": it has ended, at " + ended.UTC().Format(time.RFC3339)
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// join writes the contents of files to one file.
func join(t *testing.T, into string, paths ...string) {
	t.Helper()
	var all []byte
	for _, path := range paths {
		content, err := os.ReadFile(path)
		must(t, err)
		all = append(all, content...)
	}
	must(t, os.WriteFile(into, all, 0o600))
}
