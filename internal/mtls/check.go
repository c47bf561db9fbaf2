// Checks whether other gates would accept a gate's certificate, and for how long.

package mtls

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Chain returns the gate's certificate, and the certificates above it: the one that signs it, and
// so on up to the authority's. If other gates would refuse the gate's certificate, Chain returns an
// error instead of the certificates above. usage is [x509.ExtKeyUsageClientAuth] for a host's gate,
// and [x509.ExtKeyUsageServerAuth] for the gate with the repositories.
func (i *Identity) Chain(usage x509.ExtKeyUsage) (leaf *x509.Certificate, above []*x509.Certificate, err error) {
	now := i.current()
	leaf = now.certificate.Leaf
	if usage == x509.ExtKeyUsageClientAuth && len(leaf.DNSNames) == 0 {
		return leaf, nil, fmt.Errorf("certificate %s: it has no DNS name, by which the gate with the repositories knows a host", i.cert.Path)
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
		return leaf, nil, i.refused(now, err)
	}

	longest := slices.MaxFunc(chains, func(a, b []*x509.Certificate) int {
		return ends(aboveLeaf(a)).Compare(ends(aboveLeaf(b)))
	})
	return leaf, aboveLeaf(longest), nil
}

// aboveLeaf returns all certificates of a chain but the first. If the chain has only one
// certificate, the authority's file contains that certificate, and aboveLeaf returns it.
func aboveLeaf(chain []*x509.Certificate) []*x509.Certificate {
	if len(chain) == 1 {
		return chain
	}
	return chain[1:]
}

// refused returns the error for a certificate that was not verified.
func (i *Identity) refused(now loaded, err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%s: %w", i.nameOf(now, invalid.Cert), expired(invalid.Cert))
	}
	if stranger := (x509.UnknownAuthorityError{}); errors.As(err, &stranger) {
		return fmt.Errorf("certificate %s: the authority of %s has not signed it", i.cert.Path, i.ca.Path)
	}
	return fmt.Errorf("certificate %s: %w", i.cert.Path, err)
}

// nameOf names the file that a certificate is in.
func (i *Identity) nameOf(now loaded, c *x509.Certificate) string {
	switch {
	case c.Equal(now.certificate.Leaf):
		return "certificate " + i.cert.Path
	case slices.ContainsFunc(now.certificate.Certificate, func(der []byte) bool { return bytes.Equal(der, c.Raw) }):
		return "certificate of the signing authority, in " + i.cert.Path
	}
	return "authority " + i.ca.Path
}

// expired returns an error that says when a certificate has ended or will begin.
func expired(c *x509.Certificate) error {
	if time.Now().Before(c.NotBefore) {
		return fmt.Errorf("it is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("it has ended, at %s", c.NotAfter.UTC().Format(time.RFC3339))
}

// ends returns the earliest end of the certificates.
func ends(chain []*x509.Certificate) time.Time {
	return slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}
