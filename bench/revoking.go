// Measures requests while the token file changes all the time.

package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"terok-gate-hook/store"
)

// revoking is how long the slowest and the median request of each round take, in milliseconds:
// while tokens are revoked, and while nothing happens.
type revoking struct {
	Tokens          int
	Slowest, Median series
}

const (
	quiet   = "nothing happens"
	revoked = "one is revoked every 100 ms"
)

func (w *world) revoking(h *house, tokens, rounds int, length time.Duration) (r revoking, err error) {
	r = revoking{tokens, series{}, series{}}
	if err := w.write(tokens); err != nil {
		return r, err
	}
	if h.token, err = h.issue(store.Entry{Grant: store.Grant{Project: small, Task: "bench"}}); err != nil {
		return r, err
	}
	if err := h.askOnce(http.DefaultClient, "gate", 0); err != nil { // now the gate has read the file
		return r, err
	}

	ended := 0
	for range rounds {
		for _, name := range []string{quiet, revoked} {
			ctx, cancel := context.WithTimeout(context.Background(), length)
			defer cancel()

			var revokes sync.WaitGroup
			if name == revoked {
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				revokes.Go(func() {
					for ctx.Err() == nil {
						<-tick.C
						revoke := exec.Command(w.programs["gate"], "--token-file", w.tokens(), "--log-file", w.log(), "revoke", "--project", "demo", "--task", strconv.Itoa(ended))
						ended++
						if _, revokeErr := timed(revoke, ""); revokeErr != nil {
							err = revokeErr
						}
					}
				})
			}

			took := series{}
			for ctx.Err() == nil {
				start := time.Now()
				if err := h.askOnce(http.DefaultClient, "gate", 0); err != nil {
					return r, err
				}
				took.add("", time.Since(start))
			}

			revokes.Wait()
			if err != nil {
				return r, err
			}
			r.Slowest[name] = append(r.Slowest[name], largest(took[""]))
			r.Median[name] = append(r.Median[name], took.median(""))
		}
	}
	return r, nil
}

func (r revoking) String() string {
	text := fmt.Sprintf("%d tokens:", r.Tokens)
	for _, name := range []string{quiet, revoked} {
		text += fmt.Sprintf(" %s: the slowest request of a round %.1f ms (in the worst round %.1f), the median request %.1f;", name, r.Slowest.median(name), largest(r.Slowest[name]), r.Median.median(name))
	}
	return text
}
