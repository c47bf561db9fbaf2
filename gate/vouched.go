// Authorizes requests that the gate on a container's host hands on. That gate has judged the token,
// and does not send it. A voucher in the request says what the request may do. The connection's
// certificate identifies the host.

package gate

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"

	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

var (
	noVoucher = &refusal{code: http.StatusForbidden, text: "only the gates of containers' hosts are served here, and each request needs a voucher for its project"}

	errNotVouched       = errors.New("the gate with the repositories does not let this host vouch for the project: see --vouch of terok-gate serve")
	errCertificateEnded = errors.New("the certificate of the container's host has ended")
)

// judgeVoucher is [Gate.judge] for a request that comes with a host's certificate. It ignores a
// token in the request.
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

	host := g.vouching.Now().Voucher(certificate.DNSNames, asked.project)
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

// byVoucher reports whether a request that a host vouches for is still allowed. It does not judge
// the token: when the token is no longer valid, the host's gate cuts the connection.
type byVoucher struct {
	gate        *Gate
	who         caller
	certificate *x509.Certificate // of the host
}

func (b byVoucher) still() error { return b.stillWith(b.gate.vouching.Now(), b.gate.tokens.Freezes()) }

func (b byVoucher) stillWith(hosts voucher.Rules, freezes *store.Freezes) error {
	if time.Now().After(b.certificate.NotAfter) {
		return errCertificateEnded
	}
	if hosts.Voucher([]string{b.who.Host}, b.who.Project) == "" {
		return errNotVouched
	}
	return freezes.Check(b.who.Container, b.who.Project, b.who.Project)
}

func (b byVoucher) while(ctx context.Context) (context.Context, func()) {
	valid, cancel := context.WithCancelCause(ctx)
	one := &vouchedUse{b, cancel}
	uses := &b.gate.vouchedUses
	uses.mu.Lock()
	uses.all[one] = struct{}{}
	if !uses.watching {
		uses.watching = true
		go b.gate.watchVouched()
	}
	uses.mu.Unlock()

	return valid, func() {
		uses.mu.Lock()
		delete(uses.all, one)
		uses.mu.Unlock()
		cancel(nil)
	}
}

// vouchedUses are the requests that hosts vouch for and that are under way.
type vouchedUses struct {
	mu       sync.Mutex
	all      map[*vouchedUse]struct{}
	watching bool
}

type vouchedUse struct {
	byVoucher
	cancel context.CancelCauseFunc
}

// watchVouched cuts those requests that hosts vouch for and that may no longer go on. It returns
// when no request that a host vouches for is under way. At each tick, it looks once at the rules
// for hosts and at the freezes, for all requests together.
func (g *Gate) watchVouched() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		hosts, freezes := g.vouching.Now(), g.tokens.Freezes()
		if !g.vouchedUses.check(hosts, freezes) {
			return
		}
	}
}

// check cuts the requests that may no longer go on, and reports whether there are any requests.
func (u *vouchedUses) check(hosts voucher.Rules, freezes *store.Freezes) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for one := range u.all {
		if err := one.stillWith(hosts, freezes); err != nil {
			one.cancel(err)
		}
	}
	u.watching = len(u.all) > 0
	return u.watching
}
