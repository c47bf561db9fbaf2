package faults

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// half is the beginning of a request. The clients never send the rest.
const half = "GET /demo.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic "

// memory returns the value, in KiB, of a line about memory in the gate's /proc/PID/status.
func (h *house) memory(t *testing.T, line string) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.gate.Process.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), line+":")
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	return kib
}

// Five thousand clients that begin a request and never end it cost the gate little memory,
// and do not delay clients of other listeners. In one subtest the clients are on the host. In the
// other they are in many containers, and each container has as many connections as it may have.
func TestFiveThousandHalfRequestsCostUnder40MB(t *testing.T) {
	const requests, perContainer, most = 5000, 64, 40 << 10

	for name, dial := range map[string]func(t *testing.T, h *house) (dial func(n int) (net.Conn, error)){
		"on the host": func(_ *testing.T, h *house) func(int) (net.Conn, error) {
			return func(int) (net.Conn, error) { return net.Dial("tcp", h.address) }
		},
		"from containers": func(t *testing.T, h *house) func(int) (net.Conn, error) {
			var networks []*os.File
			for range requests/perContainer + 1 {
				c := h.attached(t)
				network, err := c.network()
				must(t, err)
				t.Cleanup(func() { network.Close() })
				networks = append(networks, network)
			}
			return func(n int) (net.Conn, error) { return dialIn(networks[n/perContainer], "127.0.0.1:9418") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, requests/perContainer+2)
			honest := h.attached(t)
			must(t, honest.does("git ls-remote $CODE_REPO"))
			dial := dial(t, h)

			before := h.memory(t, "VmRSS")
			for n := range requests {
				conn, err := dial(n)
				must(t, err)
				defer conn.Close()
				_, err = io.WriteString(conn, half)
				must(t, err)
			}

			testenv.Eventually(t, "the gate has at least 1,024 descriptors open", func() bool { return h.entries(t, "fd") >= 1024 })
			must(t, honest.does("git clone --quiet $CODE_REPO /run/demo"))

			t.Logf("memory, KiB: %d before, %d at most, %d descriptors", before, h.memory(t, "VmHWM"), h.entries(t, "fd"))
			if cost := h.memory(t, "VmHWM") - before; cost > most {
				t.Errorf("the requests cost %d KiB", cost)
			}
		})
	}
}
