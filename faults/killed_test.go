package faults

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// point is where a fault strikes.
type point struct {
	call
	fault
}

func (p point) String() string { return fmt.Sprintf("%v %v", p.fault, p.call) }

// struck is a world in which a program has met a fault at a point.
type struck struct {
	*world
	point point
	finished
	renamed bool // the rename of the token file took place
	met     bool // the program reached the point
}

// strike runs the situation's program into a fault.
func strike(s situation, p point) (*struck, error) {
	w, err := newWorld(s)
	if err != nil {
		return nil, err
	}
	r := &struck{world: w, point: p}
	r.finished, err = traced(w.program(), w.dir, func(c call, when when, result unix.Errno) fault {
		if c.name == "renameat" && when == after && result == 0 {
			r.renamed = true
		}
		if c != p.call || when != p.when {
			return fault{}
		}
		r.met = true
		return p.fault
	})
	if err != nil {
		w.remove()
		return nil, err
	}
	return r, nil
}

// sweep runs a situation once without a fault. Then it runs the situation with every fault
// at every point that the first run, or any later run before its fault, has reached. It
// checks each run, and returns how many points it tried, at how many the check failed, and
// the run without a fault.
func sweep(t *testing.T, s situation, faults []fault, check func(*struck) error) (tried, failed int, calm *struck) {
	t.Helper()
	calm, err := strike(s, point{})
	must(t, err)
	defer calm.remove()
	if calm.status != 0 || calm.stderr != "" {
		t.Fatalf("without a fault the hook ends with status %d: %s", calm.status, calm.stderr)
	}
	must(t, calm.done(calm.stdout))
	must(t, calm.keepsQuiet(calm.finished))
	must(t, calm.recovers(true))

	var mu sync.Mutex
	known := map[call]bool{}
	var round []point
	learn := func(calls []call) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range calls {
			if known[c] {
				continue
			}
			known[c] = true
			for _, f := range faults {
				round = append(round, point{c, f})
			}
		}
	}

	fail := func(p point, err error) {
		mu.Lock()
		defer mu.Unlock()
		failed++
		t.Errorf("%v: %v", p, err)
	}

	learn(calm.calls)
	for rounds := 0; len(round) > 0; rounds++ {
		if rounds == 10 {
			t.Fatalf("each of %d rounds reached new points, the last round %v", rounds, round[0])
		}

		tries := round
		round = nil
		tried += len(tries)
		atOnce(tries, func(p point) {
			// A point can be missed by chance: the number of read(2) calls for a file may differ.
			for range 10 {
				r, err := strike(s, p)
				if err != nil {
					fail(p, err)
					return
				}
				defer r.remove()

				if !r.met {
					learn(r.calls)
					continue
				}

				learn(r.calls[:slices.Index(r.calls, p.call)+1])
				if err := check(r); err != nil {
					fail(p, err)
				}
				return
			}

			if slices.Contains(calm.calls, p.call) {
				fail(p, errors.New("no later run reached this point"))
				return
			}
			t.Logf("%v: only one run reached this point, by chance", p) // one that asked a busy gate twice, say
		})
	}
	return tried, failed, calm
}

// changing counts the calls that change or lock something outside the process.
// Others are points too.
func changing(calls []call) (n int) {
	for _, c := range calls {
		if slices.Contains([]string{
			"mkdirat", "write", "pwritev", "ftruncate", "fchown", "fchmod", "utimensat", "fsync", "renameat", "unlinkat", "flock",
			"fsopen", "fsconfig", "fsmount", "mount_setattr", "move_mount", "setns", "unshare", "sendto", "bind", "listen", "connect", "sendmsg",
		}, c.name) {
			n++
		}
	}
	return n
}

// A hook that is killed anywhere loses nothing and leaves nothing that lasts. A kill before
// a call is also one after the previous call, since nothing between the two calls has an
// effect outside.
func TestKilledAnywhereNothingIsLostAndNothingLingers(t *testing.T) {
	needTracer(t)
	total, lost := 0, 0
	for _, s := range situations {
		t.Run(s.name, func(t *testing.T) {
			tried, failed, calm := sweep(t, s, []fault{{when: before, kill: true}}, func(r *struck) error {
				if r.status != -1 {
					return fmt.Errorf("the hook ended with status %d, not by the signal", r.status)
				}
				if err := r.keepsQuiet(r.finished); err != nil {
					return err
				}

				state := r.untouched
				if r.renamed {
					state = r.committed
				}
				if err := state(); err != nil {
					return fmt.Errorf("renamed: %v: %w", r.renamed, err)
				}
				return r.recovers(r.renamed)
			})

			// Every run takes many calls: it opens, locks, writes, syncs and renames the token file.
			if tried < 80 || changing(calm.calls) < 12 {
				t.Errorf("only %d points, %d calls that change something: some were missed", tried, changing(calm.calls))
			}

			t.Logf("points tried: %d (%d calls, %d of which change or lock something), lost: %d", tried, len(calm.calls), changing(calm.calls), failed)
			total, lost = total+tried, lost+failed
			noListenerIsLeft(t)
		})
	}
	t.Logf("SIGKILL before each system call: points tried: %d, lost: %d", total, lost)
}
