// Authorizes requests that the gate on a container's host hands on. That gate has judged the
// token, which does not come here; what the request may do stands in a voucher. The host is
// known by the certificate of the connection.

package gate

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

var (
	noVoucher = &refusal{code: http.StatusForbidden, text: "only the gates of containers' hosts are served here, with a voucher"}

	errNotVouched       = errors.New("the gate with the repositories does not let this host vouch for the project: see --vouch of terok-gate serve")
	errCertificateEnded = errors.New("the certificate of the container's host has ended")
)

// judgeVoucher is [Gate.judge] for a request that comes with a host's certificate. A token that
// it shows counts for nothing.
func (g *Gate) judgeVoucher(r *http.Request, asked route) (p permit, _ *refusal) {
	certificate := r.TLS.PeerCertificates[0]
	if len(certificate.DNSNames) > 0 {
		p.who.Host = certificate.DNSNames[0]
	}

	said, err := voucher.From(r.Header)
	if err != nil || said.Project != asked.project {
		return p, noVoucher
	}
	p.may = rights{asked.project, said.Limits()}

	host := g.vouching.Voucher(certificate.DNSNames, asked.project)
	if host == "" {
		return p, refusalOf(errNotVouched)
	}
	p.who = caller{
		Grant:     store.Grant{Project: said.Project, Task: said.Task},
		Container: said.Container, Fingerprint: said.Fingerprint, Host: host,
	}
	if asked.service == receivePack && p.may.ReadOnly {
		return p, refusalOf(store.ErrReadOnly)
	}

	stands := byVoucher{g, p.who, certificate}
	if err := stands.still(); err != nil {
		return p, refusalOf(err)
	}
	p.stands = stands
	return p, nil
}

// byVoucher is the standing of a request that a host vouches for. If its token ends, the host
// cuts the connection.
type byVoucher struct {
	gate        *Gate
	who         caller
	certificate *x509.Certificate // of the host
}

func (b byVoucher) still() error {
	if time.Now().After(b.certificate.NotAfter) {
		return errCertificateEnded
	}
	if b.gate.vouching.Voucher([]string{b.who.Host}, b.who.Project) == "" {
		return errNotVouched
	}
	return b.gate.tokens.Frozen(b.who.Container, b.who.Project, b.who.Project)
}

func (b byVoucher) while(ctx context.Context) (context.Context, func()) {
	valid, cancel := context.WithCancelCause(ctx)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-valid.Done():
				return
			case <-tick.C:
				if err := b.still(); err != nil {
					cancel(err)
					return
				}
			}
		}
	}()
	return valid, func() { cancel(nil) }
}
