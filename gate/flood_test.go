package gate_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// flood opens number connections to an address, and another one whenever one ends. They do not
// finish their handshake. They come from the addresses of from, by turns. When the test ends, flood
// closes them. open returns how many are open.
func flood(t *testing.T, to string, number int, from ...string) (open func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})

	var now atomic.Int64
	pace := rate.NewLimiter(1000, number) // not faster, since this process floods and also serves
	begins := []string{"", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"}
	for i := range number {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from[i%len(from)])}}
		begin := begins[i%len(begins)]
		all.Go(func() {
			for pace.Wait(ctx) == nil {
				conn, err := dialer.DialContext(ctx, "tcp", to)
				if err != nil {
					continue
				}
				now.Add(1)
				_, _ = io.WriteString(conn, begin)
				ends := context.AfterFunc(ctx, func() { conn.Close() })
				_, _ = io.Copy(io.Discard, conn)
				ends()
				conn.Close()
				now.Add(-1)
			}
		})
	}
	return func() int { return int(now.Load()) }
}

// addresses returns number addresses of this machine.
func addresses(number int) (all []string) {
	for i := range number {
		all = append(all, net.IPv4(127, 0, byte(2+i/250), byte(1+i%250)).String())
	}
	return all
}

func TestPeersWithoutACertificateKeepNoHostOut(t *testing.T) {
	for name, from := range map[string][]string{
		"from one address":   {"127.0.0.2"},
		"from 500 addresses": addresses(500),
	} {
		t.Run(name, func(t *testing.T) {
			f := openFleet(t, gate.Settings{}, gate.Settings{})
			demo := f.repos.demo(t, "demo", 3)
			token := f.host.issue(t, "demo")
			open := flood(t, f.address, 3000, from...)
			testenv.Eventually(t, "the flood has more connections than a listener serves", func() bool { return open() > 2000 })

			work := filepath.Join(f.host.dir, "work")
			for range 5 {
				git(t, f.host.dir, "clone", "--quiet", f.host.url(token, "demo"), work)
				git(t, work, "commit", "--quiet", "--allow-empty", "-m", "more")
				git(t, work, "push", "--quiet", "origin", "main")
				if git(t, demo, "rev-parse", "main") != git(t, work, "rev-parse", "main") {
					t.Error("main has not moved")
				}
				must(t, os.RemoveAll(work))
			}
			if open() < 2000 {
				t.Errorf("the flood has only %d connections now", open())
			}
		})
	}
}

func TestAHandshakeThatTakesTooLongEndsTheConnection(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	open := map[string]net.Conn{}
	for _, begin := range []string{"", "\x16\x03\x01"} {
		conn, err := net.Dial("tcp", f.address)
		must(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, begin)
		must(t, err)
		open[begin] = conn
	}
	for begin, conn := range open {
		must(t, conn.SetReadDeadline(time.Now().Add(testenv.AWhile)))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q: the gate still waits", begin)
		}
	}
}

func TestHandshakesThatFailAreCountedAndFillNoLog(t *testing.T) {
	log := logged(t)
	began := time.Now()
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	const number = 100
	for i := range number {
		conn, err := net.Dial("tcp", f.address)
		must(t, err)
		_, err = io.WriteString(conn, []string{"\x15\x03\x01\x00\x02\x02\x28", "no TLS\n"}[i%2])
		must(t, err)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	testenv.Eventually(t, "all are counted", func() bool {
		return strings.Contains(f.repos.metrics(), fmt.Sprintf("terok_gate_handshake_failures_total %d\n", number))
	})
	if lines := strings.Count(log.String(), "\n"); lines == 0 || lines > 1+int(time.Since(began)/time.Minute) {
		t.Errorf("the log has %d lines: %s", lines, log)
	}
}

func TestAHostFillsNoTrailWithRefusals(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	f.mayVouch(t, "host-a=gone\nhost-a=many*")
	cert, key := f.authority.Issue(t, "as", nil, "host-a")
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(t, err)

	const number = 1000
	sent := 0
	for name, invented := range map[string]func(i int) (project, fingerprint string){
		"fingerprints":                       func(i int) (string, string) { return "gone", fmt.Sprintf("%08x", i<<20) },
		"projects that it may vouch for":     func(i int) (string, string) { return fmt.Sprintf("many%d", i), "0123abcd" },
		"projects that it may not vouch for": func(i int) (string, string) { return fmt.Sprintf("other%d", i), "0123abcd" },
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", f.address, configFor(func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} }))
			must(t, err)
			defer conn.Close()
			before, began := len(f.repos.trailed(t, trail.Refused, sent)), time.Now()
			go func() {
				for i := range number {
					project, fingerprint := invented(i)
					voucher := voucherOf(fmt.Sprintf(`{"project":%q,"task":"t","fingerprint":%q,"access":"read"}`, project, fingerprint))
					_, _ = io.WriteString(conn, head("GET /"+project+".git/info/refs?service=git-upload-pack", "", voucher))
				}
				_ = conn.CloseWrite()
			}()
			_, err = io.Copy(io.Discard, conn)
			must(t, err)

			sent += number
			lines := len(f.repos.trailed(t, trail.Refused, sent)) - before
			if most := 16 * (trail.OwnLines + 1) * (int(time.Since(began)/time.Second) + 2); lines > most {
				t.Errorf("%d refusals have %d lines, not %d at most", number, lines, most)
			}
		})
	}
}
