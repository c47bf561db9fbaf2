package gate_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"terok-gate-hook/gate"
)

// answerWith makes a repository gate that reads one request's head and then calls answer, which
// answers the request. It returns a host's gate that hands requests on to that repository gate.
func (f *fleet) answerWith(t *testing.T, answer func(net.Conn, *http.Request)) *harness {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", f.identity(t, "hostile").Server())
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		answer(conn, r)
	}()
	f.address = l.Addr().String()
	return f.open(t, "host-a", gate.Settings{})
}

func TestARefusalFromElsewhereHasNoControlCharacters(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	const evil = "no\x1b]0;title\a\rremote: type your password\u202e\n\u009b2J"
	host := f.answerWith(t, func(conn net.Conn, _ *http.Request) {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil)
	})
	answer, text := host.request(t, http.MethodGet, "/demo.git/info/refs?service=git-upload-pack", host.issue(t, "demo"), "")
	if answer.StatusCode != http.StatusForbidden || !strings.HasPrefix(text, "no") || strings.ContainsAny(strings.TrimSuffix(text, "\n"), "\x1b\a\r\n\u009b\u202e") {
		t.Errorf("answered with %d %q", answer.StatusCode, text)
	}
}

func TestAnAnswerFromElsewhereHasABoundedHeader(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	const most = 32 << 20
	sent := make(chan int, 1)
	host := f.answerWith(t, func(conn net.Conn, _ *http.Request) {
		total, err := io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n")
		for line := "X: " + strings.Repeat("x", 64<<10) + "\r\n"; err == nil && total < most; {
			var n int
			n, err = io.WriteString(conn, line)
			total += n
		}
		sent <- total
	})

	answer, text := host.request(t, http.MethodGet, "/demo.git/info/refs?service=git-upload-pack", host.issue(t, "demo"), "")
	if answer.StatusCode != http.StatusBadGateway {
		t.Errorf("answered with %d %q", answer.StatusCode, text)
	}
	if total := <-sent; total >= most {
		t.Errorf("the gate took all of a header of %d bytes", total)
	}
}
