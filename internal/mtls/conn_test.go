package mtls

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
)

func TestAMachineHasVanishedIfItAcknowledgesNothingForLong(t *testing.T) {
	type look struct {
		waits bool          // sent data waits for an acknowledgement
		last  time.Duration // since the last acknowledgement, in seconds
	}
	for name, row := range map[string]struct {
		looks    []look
		vanished bool
	}{
		"it vanishes in a transfer":                     {[]look{{true, 0}, {true, 1}, {true, 2}, {true, 3}, {true, 4}, {true, 5}}, true},
		"it is slow, and answers in time":               {[]look{{true, 0}, {true, 1}, {true, 2}, {true, 3}, {true, 4}, {true, 0}}, false},
		"nothing waits":                                 {[]look{{false, 3}, {false, 4}, {false, 5}, {false, 60}}, false},
		"one packet after a long rest":                  {[]look{{false, 59}, {true, 60}, {false, 0}}, false},
		"one packet after each long rest":               {[]look{{true, 60}, {false, 0}, {true, 60}, {false, 0}, {true, 60}}, false},
		"its window is full, and it answers each probe": {[]look{{false, 6}, {true, 7}, {false, 0}, {false, 12}, {true, 13}}, false},
		"it vanishes after a long rest":                 {[]look{{false, 59}, {true, 60}, {true, 61}, {true, 62}}, true},
	} {
		seen, vanished := silence{}, false
		for _, now := range row.looks {
			vanished = seen.isTooLong(now.waits, now.last*time.Second)
		}
		if vanished != row.vanished {
			t.Errorf("%s: vanished is %v", name, vanished)
		}
	}
}

func TestSessionsAreResumed(t *testing.T) {
	authority := testenv.NewAuthority(t, t.TempDir())
	repos, host := identityOf(t, authority, "repos"), identityOf(t, authority, "host-a")

	tcp, err := Listen(t.Context(), "127.0.0.1:0")
	testenv.Must(t, err)
	l := tls.NewListener(tcp, repos.Server())
	defer l.Close()
	go testenv.Accept(l, func(conn net.Conn) { _, _ = conn.Write([]byte("answer")) })

	for _, step := range []struct {
		name    string
		before  func()
		resumed bool
	}{
		{"the first connection", func() {}, false},
		{"the second", func() {}, true},
		{"the third", func() {}, true},
		{"with a new certificate", func() { authority.Issue(t, "host-a", nil, "host-a") }, false},
		{"with it again", func() {}, true},
	} {
		step.before()
		conn, err := host.Dial(t.Context(), tcp.Addr().String())
		testenv.Must(t, err)
		_, err = io.ReadAll(conn)
		testenv.Must(t, err)
		if resumed := conn.ConnectionState().DidResume; resumed != step.resumed {
			t.Errorf("%s: resumed is %v", step.name, resumed)
		}
		_ = conn.Close()
	}
}
