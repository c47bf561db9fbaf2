// Measures many hooks at once, as when many containers start together.

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is how long it took to run programs that were started at once, each for a container of its
// own: UntilAll is the time until all had ended, and Slowest the time of the slowest one.
type crowd struct {
	Tokens, Hooks     int
	UntilAll, Slowest series
}

// inCrowds are the programs of a crowd, in the order in which tables show them.
var inCrowds = []string{"floor", "prestart", "poststop", "python prestart", "python poststop"}

func (w *world) crowd(tokens, hooks, rounds int) (crowd, error) {
	c := crowd{tokens, hooks, series{}, series{}}
	if err := w.furnish(tokens, 0); err != nil {
		return c, err
	}

	ids, states := make([]string, hooks), make([]string, hooks)
	for i := range hooks {
		ids[i] = fmt.Sprintf("c0ffee%04d", i)
		state, _, end, err := w.container(ids[i], 0)
		if err != nil {
			return c, err
		}
		defer end()
		states[i] = state
	}

	before, err := w.content(tokens)
	if err != nil {
		return c, err
	}
	after, err := w.content(tokens, ids...)
	if err != nil {
		return c, err
	}

	for i := range rounds {
		for _, at := range rand.Perm(len(inCrowds)) {
			name, content := inCrowds[at], before
			if i > 1 && strings.Contains(name, " ") {
				continue // Python takes long, and nearly the same time in each round
			}
			if strings.HasSuffix(name, "poststop") {
				content = after
			}

			if err := w.put(content); err != nil {
				return c, err
			}
			unix.Sync()

			var all sync.WaitGroup
			took, errs := make([]time.Duration, hooks), make([]error, hooks)
			start := time.Now()
			for i := range hooks {
				all.Go(func() { took[i], errs[i] = timed(w.command(name), states[i]) })
			}
			all.Wait()
			c.UntilAll.add(name, time.Since(start))
			c.Slowest.add(name, slices.Max(took))

			if err := errors.Join(errs...); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

func (c crowd) String() string {
	text := fmt.Sprintf("%d at once, %d tokens:", c.Hooks, c.Tokens)
	for _, name := range inCrowds {
		text += fmt.Sprintf(" %s %.0f ms (%.2f), the slowest %.0f (%.2f);", name,
			c.UntilAll.median(name), c.UntilAll.median(name)/c.UntilAll.median("floor"),
			c.Slowest.median(name), c.Slowest.median(name)/c.Slowest.median("floor"))
	}
	return text
}
