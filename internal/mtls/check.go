// Checks of a gate's own files: whether other gates would accept its certificate, and for how
// long.

package mtls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Chain returns the certificate, and those above it up to the authority's. If other gates would
// refuse the certificate, it returns an error: of a host's gate for [x509.ExtKeyUsageClientAuth],
// of the gate with the repositories for [x509.ExtKeyUsageServerAuth].
func (i *Identity) Chain(usage x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	now := i.current()
	leaf := now.certificate.Leaf
	if usage == x509.ExtKeyUsageClientAuth && len(leaf.DNSNames) == 0 {
		return nil, fmt.Errorf("certificate %s: it has no DNS name, by which the gate with the repositories knows a host", i.cert.Path)
	}

	between := x509.NewCertPool()
	for _, der := range now.certificate.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: now.authority, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, i.refused(leaf, err)
	}

	longest := chains[0]
	for _, chain := range chains {
		if Ends(chain[1:]).After(Ends(longest[1:])) {
			longest = chain
		}
	}
	return longest, nil
}

// refused returns the error for a certificate that was not verified.
func (i *Identity) refused(leaf *x509.Certificate, err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%s: %w", i.nameOf(leaf, invalid.Cert), Expired(invalid.Cert, time.Now()))
	}
	if stranger := (x509.UnknownAuthorityError{}); errors.As(err, &stranger) {
		return fmt.Errorf("certificate %s: the authority of %s has not signed it", i.cert.Path, i.ca.Path)
	}
	return fmt.Errorf("certificate %s: %w", i.cert.Path, err)
}

// nameOf returns which of the certificates above the leaf, or the leaf, an error is about.
func (i *Identity) nameOf(leaf, c *x509.Certificate) string {
	if c.Equal(leaf) {
		return "certificate " + i.cert.Path
	}
	return "authority " + i.ca.Path
}

// Expired returns an error that says when a certificate has ended or will begin.
func Expired(c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) {
		return fmt.Errorf("it is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("it has ended, at %s", c.NotAfter.UTC().Format(time.RFC3339))
}

// Ends returns when the first of some certificates ends.
func Ends(chain []*x509.Certificate) (ends time.Time) {
	for _, c := range chain {
		if ends.IsZero() || c.NotAfter.Before(ends) {
			ends = c.NotAfter
		}
	}
	return ends
}
