package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// A thousand containers each clone as soon as they live, and then end. None is refused, and
// none is served after its poststop hook. Nothing of them stays: no network, and nothing in
// the gate.
func TestAThousandLivesFromTheFirstCloneToTheEnd(t *testing.T) {
	const lives, atOnce, networks = 1000, 8, 24
	h := newHouse(t, networks)
	var number atomic.Int64

	live := func(lives int64) {
		var crowd sync.WaitGroup
		number.Store(0)
		for range atOnce {
			crowd.Go(func() {
				for n := number.Add(1); n <= lives && !t.Failed(); n = number.Add(1) {
					if err := h.live(n%2 == 0); err != nil {
						t.Errorf("life %d: %v", n, err)
					}
				}
			})
		}
		crowd.Wait()
	}

	live(1) // opens what is opened only once
	noNetworkIsLeft(t, h.nursery)
	before := h.entries(t, "fd")
	live(lives)
	if t.Failed() {
		return
	}

	noNetworkIsLeft(t, h.nursery)
	testenv.Eventually(t, "no descriptor is left", func() bool { return h.entries(t, "fd") <= before })
	// Go keeps all threads that it has needed at the same time.
	if threads := h.entries(t, "task"); threads > 10*atOnce {
		t.Errorf("the gate has %d threads", threads)
	}
}

// noNetworkIsLeft waits until every container's network is gone: with a limit of one
// network, a new one can be made only if there is no other.
func noNetworkIsLeft(t *testing.T, n *nursery) {
	t.Helper()
	n.limit(t, 1)
	c, err := n.soon()
	must(t, err)
	c.end()
	n.limit(t, n.networks)
}

// live runs one container's life: prestart, a clone, its end and poststop.
func (h *house) live(withheld bool) error {
	c, err := h.nursery.soon()
	if err != nil {
		return err
	}
	defer c.end()

	var flags []string
	if withheld {
		flags = append(flags, "--withhold-token")
	}
	if err := succeeds(h.stage("prestart", c.id, c.pid(), flags...)); err != nil {
		return err
	}

	if err := c.does("git clone --quiet $CODE_REPO /run/demo"); err != nil {
		return fmt.Errorf("the first thing that it does: %w", err)
	}

	token, err := c.token()
	if err != nil {
		return err
	}
	if (token == "") != withheld {
		return errors.New("its directory holds a token though the token is withheld, or holds none though it is not")
	}

	network, err := c.network()
	if err != nil {
		return err
	}
	defer network.Close()

	c.end()
	if err := succeeds(h.stage("poststop", c.id, 0)); err != nil {
		return err
	}

	if code, err := status(h.address, token); withheld && code != http.StatusUnauthorized || !withheld && code != http.StatusForbidden {
		return fmt.Errorf("after poststop, on the host, the container is answered %d, %v", code, err)
	}
	if code, err := statusIn(network, token); code != 0 && code != http.StatusForbidden && code != http.StatusUnauthorized {
		return fmt.Errorf("after poststop, in its network, the container is answered %d, %v", code, err)
	}
	return nil
}

// statusIn is like status, in a container's network. It is 0 if there is no answer.
func statusIn(network *os.File, token string) (int, error) {
	conn, err := dialIn(network, "127.0.0.1:9418")
	if err != nil {
		return 0, err
	}
	defer conn.Close()

	r, err := http.NewRequest("GET", "http://127.0.0.1:9418/demo.git/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return 0, err
	}
	if token != "" {
		r.SetBasicAuth(token, "")
	}

	if err := r.Write(conn); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}

	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, nil
}

// entries returns the number of entries in a directory of the gate's in /proc.
func (h *house) entries(t *testing.T, directory string) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", h.gate.Process.Pid, directory))
	must(t, err)
	return len(entries)
}
