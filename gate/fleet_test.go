package gate_test

import (
	"bufio"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

// fleet is a gate with repositories, and the gate of a host that hands requests on to it.
type fleet struct {
	repos, host *harness
	authority   *testenv.Authority
	address     string // of the repository gate, for gates of hosts
	vouch       string // the file that says who may vouch
}

// openFleet opens both gates. The host host-a may vouch for demo, lib and all that begin with
// "many".
func openFleet(t *testing.T, ofRepos, ofHost gate.Settings) *fleet {
	t.Helper()
	dir := memory(t)
	f := &fleet{authority: testenv.NewAuthority(t, dir), vouch: filepath.Join(dir, "vouch")}
	f.mayVouch(t, "host-a=demo\nhost-a=lib\nhost-a=many*")

	var err error
	ofRepos.Vouching, err = voucher.NewHosts(nil, f.vouch)
	must(t, err)
	ofRepos.Identity = f.identity(t, "repos")
	f.repos = open(t, ofRepos)
	l, err := mtls.Listen(t.Context(), "127.0.0.1:0")
	must(t, err)
	f.address = l.Addr().String()
	go func() { _ = f.repos.ServeHosts(l) }()

	f.host = f.open(t, "host-a", ofHost)
	return f
}

// open opens the gate of a host.
func (f *fleet) open(t *testing.T, name string, settings gate.Settings) *harness {
	t.Helper()
	url, err := mtls.ParseURL("https://" + f.address)
	must(t, err)
	settings.RepositoryGate, settings.Identity = url, f.identity(t, name)
	return open(t, settings)
}

func (f *fleet) identity(t *testing.T, name string) *mtls.Identity {
	t.Helper()
	cert, key := f.authority.Issue(t, name, nil, name)
	identity, err := mtls.New(cert, key, f.authority.CA)
	must(t, err)
	return identity
}

// mayVouch replaces the file that says who may vouch.
func (f *fleet) mayVouch(t *testing.T, rules string) {
	t.Helper()
	must(t, replaceFile(f.vouch, []byte(rules)))
}

func TestContainersOfAHostCloneAndPushElsewhere(t *testing.T) {
	for _, version := range []string{"0", "1", "2"} {
		t.Run("protocol "+version, func(t *testing.T) {
			f := openFleet(t, gate.Settings{}, gate.Settings{})
			demo := f.repos.demo(t, "demo", 300)
			token := f.host.issue(t, "demo")
			protocol := "protocol.version=" + version

			work := filepath.Join(f.host.dir, "work")
			git(t, f.host.dir, "-c", protocol, "clone", "--quiet", f.host.url(token, "demo"), work)
			git(t, work, "fsck", "--strict")
			git(t, work, "commit", "--quiet", "--allow-empty", "-m", "small")
			git(t, work, "-c", protocol, "push", "--quiet", "origin", "main", "main:other")
			if git(t, demo, "rev-parse", "main") != git(t, work, "rev-parse", "main") {
				t.Error("main has not moved")
			}

			// A push in chunks, and a fetch with many haves, which git zips.
			git(t, work, "fetch", "--quiet", work, "main")
			must(t, makeLarge(filepath.Join(work, ".git"), 4))
			git(t, work, "-c", protocol, "push", "--quiet", "--force", "origin", "main:large")
			git(t, work, "-c", protocol, "fetch", "--quiet", "--depth=2", "origin", "other")
			git(t, f.host.dir, "-c", protocol, "clone", "--quiet", "--filter=blob:none", "--bare", f.host.url(token, "demo"), "partial")

			for _, event := range f.repos.trailed(t, trail.Moved, 3) {
				if event.Host != "host-a" || event.Task != "task-1" || event.Fingerprint != store.Token(token).Fingerprint() {
					t.Errorf("the trail has %+v", event)
				}
			}
			f.host.trailed(t, trail.Push, 2)
			for _, event := range f.repos.trailed(t, trail.Push, 2) {
				if event.Refs == 0 || event.Host != "host-a" {
					t.Errorf("the trail has %+v", event)
				}
			}
		})
	}
}

// In git's protocol 0, upload-pack acknowledges a commit that the client has, and only then reads
// on. If the gate kept the acknowledgement until there is more output, it would wait for ever: this
// client sends the rest of its request only when it has the acknowledgement.
func TestAnAnswerIsSentBeforeTheGateWaitsForMoreOfIt(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	demo := f.repos.demo(t, "demo", 2)
	tip, parent := git(t, demo, "rev-parse", "main"), git(t, demo, "rev-parse", "main^")

	for name, h := range map[string]*harness{"from git": f.repos, "from elsewhere": f.host} {
		t.Run(name, func(t *testing.T) {
			conn := h.dial(t, head("POST /demo.git/git-upload-pack", h.issue(t, "demo"),
				"Content-Type: application/x-git-upload-pack-request", "Transfer-Encoding: chunked"))
			send := func(chunk string) {
				_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(chunk), chunk)
				must(t, err)
			}
			send(pkt("want "+tip+" multi_ack_detailed\n") + "0000" + pkt("have "+parent+"\n"))
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must(t, err)
			ack := make([]byte, len(pkt("ACK "+parent+" common\n")))
			if _, err := io.ReadFull(answer.Body, ack); err != nil || string(ack[4:]) != "ACK "+parent+" common\n" {
				t.Fatalf("after its first half, the request is answered with %q, %v", ack, err)
			}

			send(pkt("done\n"))
			send("")
			if rest, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(rest), "PACK") {
				t.Errorf("after that it is answered with %q, %v", rest, err)
			}
		})
	}
}

func TestLimitsHoldElsewhere(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	demo := f.repos.demo(t, "demo", 3)
	f.repos.demo(t, "lib", 1)
	f.repos.demo(t, "other", 1)
	work := filepath.Join(f.host.dir, "work")
	git(t, f.host.dir, "clone", "--quiet", demo, work)

	full := fmt.Sprintf("[%q%s]", "refs/heads/agent/**", strings.Repeat(`, "refs/heads/`+strings.Repeat("x", 380)+`/*"`, store.MostPatterns-1))
	for token, entry := range map[string]string{
		"reader":   `{"limited": {"project": "demo", "access": "read"}, "task": "1"}`,
		"appender": `{"limited": {"project": "demo", "access": "append"}, "task": "1"}`,
		"agent":    `{"limited": {"project": "demo", "access": "write", "push": [` + full + `, ` + full + `]}, "task": "1"}`,
		"nothing":  `{"limited": {"project": "demo", "access": "write", "push": [[]]}, "task": "1"}`,
		"several":  `{"project": "demo", "scope": "demo", "task": "1", "also": {"lib": "read"}}`,
		"odd":      `{"project": "demo", "scope": "demo", "task": "a task"}`,
		"foreign":  `{"project": "other", "scope": "other", "task": "1"}`,
	} {
		f.host.put(t, token, entry)
	}
	succeeds := func(token, project string, args ...string) {
		t.Helper()
		git(t, work, append(args[:1:1], append([]string{f.host.url(token, project)}, args[1:]...)...)...)
	}
	fails := func(says, token, project string, args ...string) {
		t.Helper()
		out := gitFails(t, work, append(args[:1:1], append([]string{f.host.url(token, project)}, args[1:]...)...)...)
		if !strings.Contains(out, says) {
			t.Errorf("%s, %s %q: git says %q", token, project, args, out)
		}
	}

	succeeds("reader", "demo", "ls-remote")
	fails("may fetch and not push", "reader", "demo", "push", "main:a")
	succeeds("appender", "demo", "push", "main:appended")
	fails("may only add", "appender", "demo", "push", "+main~1:appended")
	fails("may only add", "appender", "demo", "push", ":appended")
	succeeds("agent", "demo", "push", "main:agent/1")
	fails("the token may push to refs that match both (refs/heads/agent/** or refs/heads/xxx", "agent", "demo", "push", "main:mine")
	succeeds("nothing", "demo", "ls-remote")
	fails("the token may push to nothing", "nothing", "demo", "push", "main:mine")
	succeeds("several", "lib", "ls-remote")
	succeeds("several", "demo", "push", "main:b")
	fails("may fetch from this project", "several", "lib", "push", "main:b")
	fails("the token is for another project", "several", "other", "ls-remote")
	succeeds("odd", "demo", "push", "main:c")
	fails("the token is not valid", "none", "demo", "ls-remote")
	fails("not let this host vouch for the project", "foreign", "other", "ls-remote")

	must(t, f.host.tokens.EditFreezes(func(z *store.Freezes) bool { return z.SetProject("demo", true) }))
	fails("frozen", "reader", "demo", "ls-remote")
	must(t, f.host.tokens.EditFreezes(func(z *store.Freezes) bool { return z.SetProject("demo", false) }))
	succeeds("reader", "demo", "ls-remote")
	must(t, f.repos.tokens.EditFreezes(func(z *store.Freezes) bool { return z.SetProject("demo", true) }))
	fails("frozen", "reader", "demo", "ls-remote")
}

// If a token ends, or its host may no longer vouch, in the middle of a transfer, the transfer is
// cut, and git ends where the repository is.
func TestTransfersElsewhereAreCut(t *testing.T) {
	const promised = 100 * time.Millisecond
	ends := map[string]struct {
		end         func(t *testing.T, f *fleet, token string)
		here, there string // what the trails of the host's gate and of the repository gate say
		refused     string // instead of here, if the client has no answer yet, as in a push
	}{
		"its token is revoked": {func(t *testing.T, f *fleet, _ string) { f.host.revoke(t, "demo") },
			store.ErrRevoked.Error(), "the client went away", store.ErrRevoked.Error()},
		"its host may no longer vouch": {func(t *testing.T, f *fleet, _ string) { f.mayVouch(t, "host-b=demo") },
			"the gate with the repositories broke off its answer", "does not let this host vouch", "does not let this host vouch"},
		"its project is frozen there": {func(t *testing.T, f *fleet, _ string) {
			must(t, f.repos.tokens.EditFreezes(func(z *store.Freezes) bool { return z.SetProject("demo", true) }))
		}, "the gate with the repositories broke off its answer", "frozen", "frozen"},
		"its project is frozen here": {func(t *testing.T, f *fleet, _ string) {
			must(t, f.host.tokens.EditFreezes(func(z *store.Freezes) bool { return z.SetProject("demo", true) }))
		}, "frozen", "the client went away", "frozen"},
	}
	for name, row := range ends {
		for _, push := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, push %v", name, push), func(t *testing.T) {
				here := row.here
				if push {
					here = row.refused
				}
				best := testenv.AWhile
				for began := time.Now(); best > promised && !t.Failed(); {
					t.Run("", func(t *testing.T) { best = min(best, cutElsewhere(t, push, row.end, here, row.there)) })
					if best > promised && time.Since(began) > testenv.AWhile {
						t.Fatalf("it takes %v, at best", best)
					}
				}
				t.Logf("promised %v, took %v", promised, best)
			})
		}
	}
}

func cutElsewhere(t *testing.T, push bool, end func(*testing.T, *fleet, string), here, there string) time.Duration {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	token := f.host.issue(t, "demo")
	demo := f.repos.bare(t, "demo")
	work := demo
	cmd := command(f.host.dir, "clone", "--quiet", "--bare", f.host.url(token, "demo"), "clone")
	transferred := func() bool { return sizeOf(f.host.dir+"/clone/objects/pack/tmp_pack_*") > 10<<20 }
	if push {
		work = filepath.Join(f.host.dir, "work.git")
		git(t, f.host.dir, "init", "--quiet", "--bare", work)
		cmd = command(work, "push", "--quiet", f.host.url(token, "demo"), "main", "main:side")
		transferred = func() bool { return sizeOf(demo+"/objects/tmp_objdir-incoming-*/pack/tmp_pack_*") > 10<<20 }
	}
	git(t, work, "update-ref", "refs/heads/main", borrow(t, work))
	before := git(t, demo, "for-each-ref")

	took := cutShort(t, f.repos, cmd, transferred, func() { end(t, f, token) })
	for _, at := range []struct {
		gate *harness
		says string
	}{{f.host, here}, {f.repos, there}} {
		testenv.Eventually(t, "the trail says "+at.says, func() bool {
			at.gate.mu.Lock()
			defer at.gate.mu.Unlock()
			for _, e := range at.gate.events {
				if slices.Contains([]string{trail.Cut, trail.Failed, trail.Refused}, e.Event) && strings.Contains(e.Error, at.says) && e.Refs == 0 {
					return true
				}
			}
			return false
		})
	}
	if after := git(t, demo, "for-each-ref"); after != before {
		t.Errorf("the refs were %s and are %s", before, after)
	}
	return took
}

// All requests that hosts vouch for are watched by one goroutine, and each is cut.
func TestOneGoroutineWatchesAllVouchedRequests(t *testing.T) {
	f := openFleet(t, gate.Settings{PerToken: 20}, gate.Settings{PerToken: 20})
	f.repos.demo(t, "demo", 1)
	token := f.host.issue(t, "demo")
	push := head("POST /demo.git/git-receive-pack", token, receiveRequest, "Content-Length: 100000") + "fff0" + strings.Repeat("x", 8<<10)
	const number = 20
	var pushes []net.Conn
	for range number {
		pushes = append(pushes, f.host.dial(t, push))
	}

	testenv.Eventually(t, "all are under way", func() bool {
		return strings.Contains(f.repos.metrics(), fmt.Sprintf("terok_gate_requests_under_way %d\n", number))
	})
	watches := func() int {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ".(*Gate).watchVouched(")
	}
	testenv.Eventually(t, "they are watched", func() bool { return watches() > 0 })
	if n := watches(); n != 1 {
		t.Errorf("%d watches", n)
	}

	f.mayVouch(t, "host-b=demo")
	for _, conn := range pushes {
		_, err := io.Copy(io.Discard, conn)
		must(t, err)
	}
	testenv.Eventually(t, "the watch has ended", func() bool { return watches() == 0 })
}

func TestTheClientIsToldIfTheRepositoryGateDoesNotAnswer(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	f.repos.demo(t, "demo", 1)
	token := f.host.issue(t, "demo")
	ask := func() (int, string) {
		answer, text := f.host.request(t, http.MethodGet, "/demo.git/info/refs?service=git-upload-pack", token, "")
		return answer.StatusCode, text
	}
	if code, text := ask(); code != http.StatusOK {
		t.Errorf("answered with %d %q", code, text)
	}

	stopNow(f.repos.Gate)
	code, text := ask()
	if code != http.StatusBadGateway || !strings.Contains(text, "the gate with the repositories does not answer: try again in a moment") {
		t.Errorf("answered with %d %q", code, text)
	}
	if event := f.host.trailed(t, trail.Failed, 1)[0]; !strings.Contains(event.Error, "connection refused") {
		t.Errorf("the trail has %+v", event)
	}
}

func TestAGateThatAcceptsNoConnectionIsGivenUp(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections for it
	must(t, err)
	defer l.Close()
	f.address = l.Addr().String()
	host := f.open(t, "host-a", gate.Settings{Patience: 100 * time.Millisecond})
	answer, text := host.request(t, http.MethodGet, "/demo.git/info/refs?service=git-upload-pack", host.issue(t, "demo"), "")
	if answer.StatusCode != http.StatusBadGateway || !strings.Contains(text, "does not answer") {
		t.Errorf("answered with %d %q", answer.StatusCode, text)
	}
}

func TestABodyThatIsNotAskedForIsNotHandedOn(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	f.repos.demo(t, "demo", 1)
	ask := func(h *harness) (int, string) {
		answer, text := h.request(t, http.MethodGet, "/demo.git/info/refs?service=git-upload-pack", h.issue(t, "demo"), "a body")
		return answer.StatusCode, text
	}
	if code, text := ask(f.host); code != http.StatusOK || !strings.Contains(text, "refs/heads/main") {
		t.Errorf("answered with %d %q", code, text)
	}

	handedOn := make(chan string, 1)
	host := f.answerWith(t, func(conn net.Conn, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		handedOn <- string(body)
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno")
	})
	if code, text := ask(host); code != http.StatusForbidden {
		t.Fatalf("answered with %d %q", code, text)
	}
	if body := <-handedOn; body != "" {
		t.Errorf("the other gate gets the body %q", body)
	}
}

func TestCertificatesAreReadAgain(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	f.repos.demo(t, "demo", 1)
	token := f.host.issue(t, "demo")
	list := func() string {
		out, _ := command(f.host.dir, "ls-remote", f.host.url(token, "demo")).CombinedOutput()
		return string(out)
	}
	dropSessions := func() { f.authority.Issue(t, "host-a", nil, "host-a") }
	if out := list(); !strings.Contains(out, "refs/heads/main") {
		t.Errorf("at first: %s", out)
	}

	old := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	f.authority.Issue(t, "host-a", old, "host-a")
	if out := list(); !strings.Contains(out, "502") {
		t.Errorf("with a host's certificate that has ended: %s", out)
	}
	f.authority.Issue(t, "host-a", nil, "host-a")
	if out := list(); !strings.Contains(out, "refs/heads/main") {
		t.Errorf("with a new one: %s", out)
	}

	must(t, os.WriteFile(filepath.Join(filepath.Dir(f.authority.CA), "host-a.key"), []byte("half"), 0o600))
	if out := list(); !strings.Contains(out, "refs/heads/main") {
		t.Errorf("with a key file that cannot be used, so the gate uses the earlier files: %s", out)
	}

	f.authority.Issue(t, "repos", old, "repos")
	dropSessions() // those with the earlier certificate stay valid as long as that certificate
	if out := list(); !strings.Contains(out, "502") {
		t.Errorf("with a repository gate's certificate that has ended: %s", out)
	}

	// Sessions that are resumed are judged anew.
	f.authority.Issue(t, "repos", nil, "repos")
	if out := list(); !strings.Contains(out, "refs/heads/main") {
		t.Errorf("with a new certificate of the gate with the repositories: %s", out)
	}
	testenv.NewAuthority(t, filepath.Dir(f.authority.CA))
	f.authority.Issue(t, "repos", nil, "repos")
	if out := list(); !strings.Contains(out, "502") {
		t.Errorf("with another authority: %s", out)
	}
}

// When the body was read to its end, the gate must no longer interrupt the reading: the server then
// reads in the background, to notice that the client goes away.
func TestAConnectionServesTheNextRequestAfterARefusal(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	body := pkt("command=ls-refs\n") + "0000"
	request := head("POST /lib.git/git-upload-pack", f.host.issue(t, "lib"), uploadRequest, "Git-Protocol: version=2", fmt.Sprintf("Content-Length: %d", len(body))) + body
	conn := f.host.dial(t, request)
	answers := bufio.NewReader(conn)
	for range 3 {
		answer, err := http.ReadResponse(answers, nil)
		must(t, err)
		text, err := io.ReadAll(answer.Body)
		must(t, err)
		if answer.StatusCode != http.StatusNotFound || answer.Close || len(text) == 0 {
			t.Fatalf("%s, %q, the connection closes: %v", answer.Status, text, answer.Close)
		}
		_, err = io.WriteString(conn, request)
		must(t, err)
	}
}
