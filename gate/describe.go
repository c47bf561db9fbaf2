// Describes to doctor how the gate works with gates on other machines: the gate's certificate, the
// hosts that may vouch, and whether the gate with the repositories serves this gate.

package gate

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/voucher"
)

// tryPatience is how long try may take. doctor waits five seconds for the gate's description.
const tryPatience = 4 * time.Second

// describe returns the gate's description of itself, for a question at its control socket.
func (g *Gate) describe(asked control.Request) (self control.Gate) {
	if g.elsewhere != nil {
		self.RepositoryGate = string(g.elsewhere.url)
	} else {
		self.Repos = g.repos
	}
	if g.identity == nil {
		return self
	}

	self.Fleet = &control.Fleet{}
	usage := x509.ExtKeyUsageClientAuth
	if g.elsewhere == nil {
		usage = x509.ExtKeyUsageServerAuth
		g.describeHosts(self.Fleet)
	}
	leaf, above, err := g.identity.Chain(usage)
	self.Fleet.Certificate, self.Fleet.Authority = validity(leaf), validity(above...)
	if len(leaf.DNSNames) > 0 {
		self.Fleet.Name = leaf.DNSNames[0]
	}
	if err != nil {
		self.Fleet.Problem = err.Error()
	}
	if asked.Try != "" && g.elsewhere != nil {
		tried := g.elsewhere.try(g.ctx, asked.Try)
		self.Fleet.Tried = &tried
	}
	return self
}

// describeHosts adds the hosts that may vouch, as many as fit into a message.
func (g *Gate) describeHosts(fleet *control.Fleet) {
	fleet.Listens = true
	names, err := g.vouching.Names()
	if err != nil {
		fleet.Fault = err.Error()
	}
	room := control.MessageLimit / 4
	for i, name := range names {
		if room -= len(name); room < 0 {
			fleet.More = len(names) - i
			break
		}
		fleet.Hosts = append(fleet.Hosts, name)
	}
}

// validity returns the time in which all of the certificates are valid.
func validity(certificates ...*x509.Certificate) (v control.Validity) {
	for _, c := range certificates {
		if c.NotBefore.After(v.From) {
			v.From = c.NotBefore
		}
		if v.Until.IsZero() || c.NotAfter.Before(v.Until) {
			v.Until = c.NotAfter
		}
	}
	return v
}

// try asks the gate with the repositories for a project's refs, as this gate does for a container.
func (e *elsewhere) try(ctx context.Context, project string) (t control.Tried) {
	t.Address = e.url.Address(project)
	fails := func(fault control.Fault, err error) control.Tried {
		t.Fault, t.Detail = fault, err.Error()
		return t
	}

	ctx, cancel := context.WithTimeout(ctx, tryPatience)
	defer cancel()
	conn, err := e.identity.Dial(ctx, t.Address)
	if err != nil {
		return fails(faultOf(err), err)
	}
	defer conn.Cut()
	defer context.AfterFunc(ctx, conn.Cut)()
	t.Certificate = validity(conn.ConnectionState().PeerCertificates[0])

	request, err := trial(t.Address, project)
	if err != nil {
		return fails(control.Refused, err)
	}
	sent := time.Now()
	_ = request.Write(conn) // if this fails, the answer or a TLS alert says why
	answer, err := readAnswer(bufio.NewReader(io.LimitReader(conn, headerLimit)), request)
	if err != nil {
		return fails(faultOf(err), err)
	}
	defer answer.Body.Close()

	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		t.Ahead = aheadOf(sent, time.Now(), date)
	}
	if answer.StatusCode == http.StatusOK {
		return t
	}
	refused := refusalFrom(answer)
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return fails(control.NoProject, refused)
	case strings.HasPrefix(refused.Error(), errNotVouched.Error()):
		return fails(control.NotVouching, refused)
	}
	return fails(control.Refused, refused)
}

// trial returns a request for a project's refs. It vouches for the task terok-gate-doctor instead of
// a container's.
func trial(address, project string) (*http.Request, error) {
	request, err := http.NewRequest(http.MethodGet, "https://"+address+"/"+project+".git/info/refs?service="+string(uploadPack), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "terok-gate")
	request.Close = true
	return request, voucher.Voucher{
		Project: project, Task: "terok-gate-doctor", Fingerprint: "00000000", Access: "read",
	}.Set(request.Header)
}

// faultOf returns the kind of an error in connecting to the other gate, or in reading its answer.
func faultOf(err error) control.Fault {
	var name *net.DNSError
	var stranger *tls.CertificateVerificationError
	var operation *net.OpError
	switch {
	case errors.As(err, &name):
		return control.NoName
	case errors.Is(err, unix.ECONNREFUSED):
		return control.NotThere
	case errors.As(err, &stranger):
		return control.Stranger
	case errors.As(err, &operation) && operation.Op == "remote error": // of TLS
		return control.NotKnown
	}
	return control.Unreachable
}

// aheadOf returns how far the other gate's clock is ahead of ours, by the Date of its answer. It
// returns 0 if the clocks may agree: a Date has whole seconds, and was made at some time between
// sent and received.
func aheadOf(sent, received, date time.Time) time.Duration {
	switch {
	case date.After(received):
		return date.Sub(received)
	case date.Add(time.Second).Before(sent):
		return date.Add(time.Second).Sub(sent)
	}
	return 0
}
