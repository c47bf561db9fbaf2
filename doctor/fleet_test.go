package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/engines"
	"terok-gate-hook/gate"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

// fleetPatient is a host of containers, and a gate with the repository demo, which the host may reach.
type fleetPatient struct {
	*served
	authority *testenv.Authority
	host      [2]string     // certificate and key
	url       string        // of the gate with the repositories
	vouch     string        // that gate's file of hosts
	clock     time.Duration // how far the clock of that gate's machine is ahead
}

func newFleetPatient(t *testing.T) *fleetPatient {
	t.Helper()
	s := newServed(t)
	s.settings.AllowProjects = []string{"demo"}
	p := &fleetPatient{served: s, authority: testenv.NewAuthority(t, s.directory), vouch: filepath.Join(s.directory, "vouch")}
	p.host[0], p.host[1] = p.authority.Issue(t, "host-a", nil, "host-a")
	p.authority.Issue(t, "repos", nil, "localhost")
	must(t, os.WriteFile(p.vouch, []byte("host-a=demo\n"), 0o600))
	must(t, exec.Command("git", "init", "--quiet", "--bare", filepath.Join(s.repos, "demo.git")).Run())
	return p
}

// settingsOf returns the settings of the gate with the repositories.
func (p *fleetPatient) settingsOf(t *testing.T) gate.Settings {
	t.Helper()
	hosts, err := voucher.NewHosts(nil, p.vouch)
	must(t, err)
	identity, err := mtls.New(filepath.Join(p.directory, "repos.pem"), filepath.Join(p.directory, "repos.key"), p.authority.CA)
	must(t, err)
	return gate.Settings{Repos: p.repos, Tokens: store.File{Path: p.tokens}.Reader(func(error) {}), Identity: identity, Vouching: hosts}
}

// startRepos starts the gate with the repositories.
func (p *fleetPatient) startRepos(t *testing.T) {
	t.Helper()
	settings := p.settingsOf(t)
	g, err := gate.New(settings)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Stop(ctx)
	})
	l, err := mtls.Listen(t.Context(), "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p.url = "https://localhost:" + port

	if p.clock == 0 {
		go func() { _ = g.ServeHosts(l) }()
		return
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(p.clock).UTC().Format(http.TimeFormat))
		g.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(settings.Identity.NewListener(l, 8, func(error) {})) }()
}

// checkFleet starts the host's gate, and makes doctor check it.
func (p *fleetPatient) checkFleet(t *testing.T) []Finding {
	t.Helper()
	url, err := mtls.ParseURL(p.url)
	must(t, err)
	identity, err := mtls.New(p.host[0], p.host[1], p.authority.CA)
	must(t, err)
	p.startGate(t, gate.Settings{RepositoryGate: url, Identity: identity, Tokens: store.File{Path: p.tokens}.Reader(func(error) {})})
	return p.check("terok-gate", "fleet")
}

func TestDoctorTriesTheGateWithTheRepositories(t *testing.T) {
	in := func(d time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(d) }
	}
	const soon = 10 * time.Minute // what is left of the hour and ten minutes that the certificate is valid
	elsewhere := func(t *testing.T) *testenv.Authority { return testenv.NewAuthority(t, t.TempDir()) }

	for _, row := range []struct {
		name         string
		before       func(t *testing.T, p *fleetPatient) // runs before the gate with the repositories starts
		after        func(t *testing.T, p *fleetPatient) // runs after that
		state        State
		text, remedy string
	}{
		{"it serves this host", nil, nil, OK, "PORT serves this host, host-a; this gate's certificate is valid until DAY, the authority's until ", ""},
		{"its name cannot be resolved", nil, func(t *testing.T, p *fleetPatient) { p.url = "https://repos.invalid:9419" },
			Broken, "the name of repos.invalid:9419 cannot be resolved on this machine: ", "add the name to DNS or /etc/hosts, or give another one: "},
		{"nothing listens", nil, func(t *testing.T, p *fleetPatient) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			p.url = "https://" + l.Addr().String()
			l.Close()
		}, Broken, "no gate listens at 127.0.0.1:", "on that machine: terok-gate doctor"},
		{"it does not answer", nil, func(t *testing.T, p *fleetPatient) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			t.Cleanup(func() { l.Close() })
			p.url = "https://" + l.Addr().String()
		}, Broken, " does not answer: ", "see that no firewall is between the machines"},
		{"its certificate is from another authority", func(t *testing.T, p *fleetPatient) {
			cert, key := elsewhere(t).Issue(t, "repos", nil, "localhost")
			must(t, os.Rename(cert, filepath.Join(p.directory, "repos.pem")))
			must(t, os.Rename(key, filepath.Join(p.directory, "repos.key")))
		}, nil, Broken, "this gate refuses the certificate of PORT: TLS with PORT: tls: failed to verify certificate: x509: certificate signed by unknown authority", "on that machine: terok-gate doctor"},
		{"its certificate has another name", func(t *testing.T, p *fleetPatient) { p.authority.Issue(t, "repos", nil, "other.example") }, nil,
			Broken, "certificate is valid for other.example, not localhost", ""},
		{"its certificate has ended", func(t *testing.T, p *fleetPatient) { p.authority.Issue(t, "repos", in(-time.Minute), "localhost") }, nil,
			Broken, "this gate refuses the certificate of PORT: TLS with PORT: tls: failed to verify certificate: x509: certificate has expired", "see that the clocks of both machines are right"},
		{"its certificate ends soon", func(t *testing.T, p *fleetPatient) { p.authority.Issue(t, "repos", in(soon), "localhost") }, nil,
			Warning, "the certificate of PORT ends in 10m0s, at ", "issue a new certificate"},
		{"this host's certificate is from another authority", nil, func(t *testing.T, p *fleetPatient) {
			p.host[0], p.host[1] = elsewhere(t).Issue(t, "host-a", nil, "host-a")
		}, Broken, "PORT refuses this gate's certificate: remote error: tls: unknown certificate authority", "issue a new certificate"},
		{"this host's certificate is from another authority, and this host's gate sees that itself", nil, func(t *testing.T, p *fleetPatient) {
			p.host[0], p.host[1] = elsewhere(t).Issue(t, "host-a", nil, "host-a")
		}, Broken, "other gates refuse this gate: certificate HOST: the authority of CA has not signed it", "issue a new certificate"},
		{"this host's certificate has ended", nil, func(t *testing.T, p *fleetPatient) { p.authority.Issue(t, "host-a", in(-time.Minute), "host-a") },
			Broken, "PORT refuses this gate's certificate: remote error: tls: expired certificate", "see that the clocks of both machines are right"},
		{"this host's certificate has ended, and this host's gate sees that itself", nil, func(t *testing.T, p *fleetPatient) { p.authority.Issue(t, "host-a", in(-time.Minute), "host-a") },
			Broken, "other gates refuse this gate: certificate HOST: it has ended, at ", "issue a new certificate"},
		{"this host's certificate begins later", nil, func(t *testing.T, p *fleetPatient) {
			p.authority.Issue(t, "host-a", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, "host-a")
		}, Broken, "other gates refuse this gate: certificate HOST: it is not valid before ", ""},
		{"this host's certificate ends soon", nil, func(t *testing.T, p *fleetPatient) { p.authority.Issue(t, "host-a", in(soon), "host-a") },
			Warning, "this gate's certificate ends in 10m0s, at ", "issue a new certificate"},
		{"the authority ends soon", func(t *testing.T, p *fleetPatient) { p.authority.Renew(t, time.Now().Add(soon)) }, nil,
			Warning, "the authority's certificate ends in 10m0s, at ", "issue a new certificate"},
		{"the authority has ended", func(t *testing.T, p *fleetPatient) { p.authority.Renew(t, time.Now().Add(-time.Minute)) }, nil,
			Broken, "other gates refuse this gate: authority CA: it has ended, at ", "issue a new certificate"},
		{"it does not let this host vouch", func(t *testing.T, p *fleetPatient) {
			must(t, os.WriteFile(p.vouch, []byte("host-b=demo\nhost-a=other"), 0o600))
		}, nil,
			Broken, "PORT does not let this host vouch for project demo", "add this line to the file of --vouch-file: host-a=demo"},
		{"it has no such project", func(t *testing.T, p *fleetPatient) { must(t, os.RemoveAll(filepath.Join(p.repos, "demo.git"))) }, nil,
			Warning, "PORT serves this host, but has no project demo", "on the machine with the repositories: terok-gate add demo; or try another project: "},
		{"the project is frozen there", nil, func(t *testing.T, p *fleetPatient) {
			must(t, store.File{Path: p.tokens}.EditFreezes(func(z *store.Freezes) bool { return z.SetProject("demo", true) }))
		}, Broken, "PORT refuses this host: ", "on that machine: terok-gate doctor"},
		{"its clock is ahead", func(_ *testing.T, p *fleetPatient) { p.clock = time.Hour }, nil, Warning, "the clock of PORT is 1h0m0s ahead of this machine's", "timedatectl set-ntp true"},
		{"its clock is behind", func(_ *testing.T, p *fleetPatient) { p.clock = -time.Hour }, nil, Warning, "the clock of PORT is 1h0m0s behind this machine's", "timedatectl set-ntp true"},
		{"its clock is a little ahead", func(_ *testing.T, p *fleetPatient) { p.clock = 50 * time.Second }, nil, OK, "PORT serves this host", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newFleetPatient(t)
			if row.before != nil {
				row.before(t, p)
			}
			p.startRepos(t)
			if row.after != nil {
				row.after(t, p)
			}
			found := p.checkFleet(t)
			text := strings.NewReplacer("PORT", strings.TrimPrefix(p.url, "https://"), "HOST", p.host[0], "CA", p.authority.CA,
				"DAY", time.Now().Add(time.Hour).UTC().Format(time.DateOnly)).Replace(row.text)
			finds(t, found, "fleet", row.state, text)
			for _, f := range found {
				if f.Check != "fleet" {
					continue
				}
				if row.state == OK && f.State != OK {
					t.Errorf("doctor also finds %+v", f)
				}
				if strings.Contains(f.Text, text) && !strings.Contains(f.Remedy, row.remedy) {
					t.Errorf("the remedy is %q, want %q", f.Remedy, row.remedy)
				}
			}
		})
	}
}

func TestDoctorChecksAGateThatServesOtherMachines(t *testing.T) {
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, "host-%03d.a-rather-long-name.example=demo\n", i)
	}
	for _, row := range []struct {
		name  string
		make  func(t *testing.T, p *fleetPatient)
		state State
		text  string
	}{
		{"all is well", nil, OK, "hosts that may vouch: host-a; this gate's certificate is valid until "},
		{"many hosts", func(t *testing.T, p *fleetPatient) { must(t, os.WriteFile(p.vouch, []byte(many.String()), 0o600)) },
			OK, "hosts that may vouch: host-000.a-rather-long-name.example, host-001."},
		{"no host", func(t *testing.T, p *fleetPatient) { must(t, os.WriteFile(p.vouch, nil, 0o600)) }, Warning, "no host may vouch, so none is served"},
		{"a file that is not understood", func(t *testing.T, p *fleetPatient) { must(t, os.WriteFile(p.vouch, []byte("host-a\n"), 0o600)) },
			Broken, "no host of the file may vouch: VOUCH, line 1: not HOST=PATTERN"},
		{"no file", func(t *testing.T, p *fleetPatient) { must(t, os.Remove(p.vouch)) }, Broken, "no host of the file may vouch: open VOUCH: no such file"},
		{"a certificate that has ended", func(t *testing.T, p *fleetPatient) {
			p.authority.Issue(t, "repos", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "localhost")
		}, Broken, "other gates refuse this gate: certificate "},
		{"an authority that ends soon", func(t *testing.T, p *fleetPatient) { p.authority.Renew(t, time.Now().Add(time.Minute)) },
			Warning, "the authority's certificate ends in 1m0s, at "},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newFleetPatient(t)
			p.startGate(t, p.settingsOf(t))
			if row.make != nil {
				row.make(t, p)
			}
			finds(t, p.check("terok-gate", "fleet"), "fleet", row.state, strings.ReplaceAll(row.text, "VOUCH", p.vouch))
		})
	}
}

// Doctor knows whether the gate has repositories even if the gate does not run.
func TestDoctorKnowsWhetherAGateThatDoesNotRunHasRepositories(t *testing.T) {
	s := newServed(t)
	must(t, os.Remove(s.repos))
	s.hooks, s.units = t.TempDir(), t.TempDir()
	r := engines.Registration{Binary: filepath.Join(s.bin, "terok-gate-hook"), Settings: s.settings}
	definitions, err := r.Definitions(s.hooks)
	must(t, err)
	for _, f := range definitions {
		must(t, f.Write())
	}
	unit := "# Written by terok-gate install; terok-gate uninstall removes it.\n" +
		`ExecStart="terok-gate" "serve" "--repository-gate" "https://repos:9419" "--tls-cert" "/c" "--tls-key" "/k" "--tls-ca" "/ca" "--control" "/control"`
	must(t, os.WriteFile(filepath.Join(s.units, engines.GateUnitName), []byte(unit), 0o644))

	found := s.check("terok-gate", "repositories", "fleet")
	finds(t, found, "terok-gate", Broken, "no gate listens: ")
	if len(found) != 1 || !strings.Contains(found[0].Remedy, " serve --repository-gate https://repos:9419 --tls-cert /c --tls-key /k --tls-ca /ca --control ") {
		t.Errorf("found %+v", found)
	}
}
