// Measures how long it takes until the gate serves a container's network.

package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// attached is how long it takes, in milliseconds, to make the gate serve a container's network:
// from entering the network to the gate's positive answer. It is also how long a whole prestart
// takes with that step, and without it.
type attached series

const (
	alone   = "attach"
	with    = "prestart that attaches"
	without = "prestart"
)

func (w *world) attach(h *house, rounds int) (attached, error) {
	took := series{}
	hooks := hook.Settings{GateSocket: h.control}
	for i := range rounds {
		id := fmt.Sprintf("c0ffee%04d", i)
		for _, name := range []string{alone, without, with} {
			state, pid, end, err := w.container(id, syscall.CLONE_NEWNET)
			if err != nil {
				return nil, err
			}
			defer end()

			if name == alone {
				entry := store.Entry{
					Grant: store.Grant{Project: small, Task: strconv.Itoa(i)}, Container: id,
					Gate: &store.Attached{Listen: hook.GateListen},
				}
				if entry.Process, err = store.ProcessOf(pid); err != nil {
					return nil, err
				}
				if entry.Token, err = store.NewToken(); err != nil {
					return nil, err
				}

				start := time.Now()
				if err := hooks.Attach(entry); err != nil {
					return nil, err
				}
				took.add(name, time.Since(start))
				continue
			}

			cmd := exec.Command(w.programs["hook"], "--token-file", w.tokens(), "--log-file", w.log(), "prestart")
			if name == with {
				cmd.Args = append(cmd.Args, "--gate-socket", h.control)
			} else {
				cmd.Args = append(cmd.Args, "--gate-url", "http://gate.example:9418")
			}

			one, err := timed(cmd, state)
			if err != nil {
				return nil, err
			}
			took.add(name, one)
		}
	}
	return attached(took), nil
}

func (a attached) String() string {
	var all []string
	for _, name := range []string{alone, without, with} {
		all = append(all, fmt.Sprintf("%s %.2f ms", name, series(a).median(name)))
	}
	return strings.Join(all, ", ")
}
