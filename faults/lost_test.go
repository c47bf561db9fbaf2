package faults

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attach runs terok-gate attach, and checks that it finds this number of living containers.
func (h *house) attach(containers int) error {
	f, err := run(h.attaching())
	if want := fmt.Sprintf("attached %d\n", containers); err == nil && (f.status != 0 || f.stdout != want) {
		err = fmt.Errorf("attach ends with status %d and says %q, not %q: %s", f.status, f.stdout, want, f.stderr)
	}
	return err
}

func (h *house) attaching() program {
	return program{args: []string{"--token-file", h.tokens, "attach", "--gate-socket", h.control}}
}

// Without a service manager, the listeners are lost when the gate is killed. Once the gate has
// been started again, attach makes it serve all containers within a second.
func TestFiftyContainersAreServedAgainWithinASecond(t *testing.T) {
	const number = 50
	h := newHouse(t, number+1)
	var containers []*guest
	for range number {
		containers = append(containers, h.attached(t))
	}

	h.endGate(unix.SIGKILL)
	if containers[0].does("git ls-remote $CODE_REPO") == nil {
		t.Error("there is no gate, and git works")
	}

	h.startGate(t)
	began := time.Now()
	must(t, h.attach(number))
	took := time.Since(began)

	for _, c := range containers {
		if err := c.does("git ls-remote $CODE_REPO"); err != nil {
			t.Error(err)
		}
	}

	must(t, h.attach(number)) // once more changes nothing
	if t.Logf("attach took %v", took.Round(time.Millisecond)); took > time.Second {
		t.Errorf("attach took %v", took)
	}

	for _, c := range containers {
		c.end()
	}
	noNetworkIsLeft(t, h.nursery)
}

// Attach is killed before each of its calls in turn. That does no harm, and the next attach does
// the job.
func TestAttachIsKilledAtEveryMoment(t *testing.T) {
	needTracer(t)
	h := newHouse(t, 3)
	containers := []*guest{h.attached(t), h.attached(t)}
	for n := 0; ; n++ {
		h.endGate(unix.SIGKILL)
		h.startGate(t)

		seen := -1
		f, err := traced(h.attaching(), h.dir, func(_ call, when when, _ unix.Errno) fault {
			if when != before {
				return fault{}
			}
			seen++
			return fault{kill: seen == n}
		})
		must(t, err)

		must(t, h.attach(len(containers)))
		for _, c := range containers {
			if err := c.does("git ls-remote $CODE_REPO"); err != nil {
				t.Errorf("killed before call %d: %v", n, err)
			}
		}

		if f.status == 0 {
			t.Logf("calls: %d", n)
			break
		}
	}

	for _, c := range containers {
		c.end()
	}
	noNetworkIsLeft(t, h.nursery)
}

// The gate is killed before each call of a hook, from the hook's listen(2) on. A hook that
// gets no answer fails and issues nothing. If the hook has had its answer, attach makes the
// next gate serve the container. If the next gate is there at once, the hook does not fail.
func TestTheGateIsKilledAtEveryMomentOfAHooksAttach(t *testing.T) {
	needTracer(t)
	for _, replaced := range []bool{false, true} {
		t.Run(fmt.Sprintf("replaced at once: %v", replaced), func(t *testing.T) {
			h := newHouse(t, 2)
			must(t, h.live(false)) // so that there is a token file
			var issued, refused int
			for n := 0; ; n++ {
				c, err := h.nursery.soon()
				must(t, err)

				seen := -1 // the number of the hook's calls since listen(2)
				var gateErr error
				f, err := traced(h.stage("prestart", c.id, c.pid()), h.dir, func(c call, when when, _ unix.Errno) fault {
					if when != before || seen < 0 && c.name != "listen" {
						return fault{}
					}
					if seen++; seen == n {
						h.endGate(unix.SIGKILL)
						if replaced {
							gateErr = h.tryGate()
						}
					}
					return fault{}
				})
				met := seen >= n
				must(t, errors.Join(err, gateErr))
				if met && !replaced {
					h.startGate(t)
				}

				if err := h.endsWell(c, f); err != nil {
					t.Errorf("the gate is killed before the hook's call %d from listen(2) on: %v", n, err)
				}

				if f.status == 0 {
					issued++
				} else if refused++; replaced {
					t.Errorf("the gate is killed before the hook's call %d from listen(2) on, and there is a gate again, but the hook fails: %s", n, f.stderr)
				}

				noNetworkIsLeft(t, h.nursery)
				if !met {
					t.Logf("calls: %d, token issued: %d, refused: %d", n, issued, refused)
					return
				}
			}
		})
	}
}

// endsWell checks that the container is served after attach has run, or that the hook has
// failed and there is no token. It then ends the container.
func (h *house) endsWell(c *guest, f finished) error {
	defer c.end()
	entries, err := readTokens(h.tokens)
	if err != nil {
		return err
	}
	if f.status != 0 {
		if len(entries) > 0 {
			return fmt.Errorf("the hook fails, and there are %d tokens", len(entries))
		}
		return nil
	}
	if len(entries) != 1 {
		return fmt.Errorf("there are %d tokens", len(entries))
	}
	if err := errors.Join(h.attach(1), c.does("git ls-remote $CODE_REPO")); err != nil {
		return err
	}
	c.end()
	return succeeds(h.stage("poststop", c.id, 0))
}
