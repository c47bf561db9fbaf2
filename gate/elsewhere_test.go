package gate_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"terok-gate-hook/gate"
)

// answerWith makes a repository gate that answers one request with these bytes, and returns a
// host's gate that hands requests on to it.
func (f *fleet) answerWith(t *testing.T, text string) *harness {
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
		_, _ = conn.Read(make([]byte, 4<<10))
		_, _ = io.WriteString(conn, text)
	}()
	f.address = l.Addr().String()
	return f.open(t, "host-a", gate.Settings{})
}

func TestARefusalFromElsewhereHasNoControlCharacters(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	const evil = "no\x1b]0;title\a\rremote: type your password\u202e\n\u009b2J"
	host := f.answerWith(t, fmt.Sprintf("HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil))
	answer, text := host.request(t, http.MethodGet, "/demo.git/info/refs?service=git-upload-pack", host.issue(t, "demo"), "")
	if answer.StatusCode != http.StatusForbidden || !strings.HasPrefix(text, "no") || strings.ContainsAny(strings.TrimSuffix(text, "\n"), "\x1b\a\r\n\u009b\u202e") {
		t.Errorf("answered with %d %q", answer.StatusCode, text)
	}
}
