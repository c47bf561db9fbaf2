package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is what it took so many programs that started at once, each about a container of
// its own.
type crowd struct {
	Tokens, Hooks     int
	UntilAll, Slowest series
}

func (w *world) crowd(tokens, hooks, rounds int) (crowd, error) {
	c := crowd{tokens, hooks, series{}, series{}}
	if err := w.furnish(tokens, 0); err != nil {
		return c, err
	}
	for range rounds {
		for _, name := range []string{"floor", "poststop", "python poststop"} {
			if err := w.write(tokens); err != nil {
				return c, err
			}
			unix.Sync()
			var all sync.WaitGroup
			took, errs := make([]time.Duration, hooks), make([]error, hooks)
			start := time.Now()
			for i := range hooks {
				state := fmt.Sprintf(`{"ociVersion":"1.0.0","id":"%064x","status":"stopped","bundle":"/","annotations":{"terok.project":"demo","terok.task":"%d"}}`, i+1, i)
				all.Go(func() { took[i], errs[i] = timed(w.command(name), state) })
			}
			all.Wait()
			c.UntilAll.add(name, time.Since(start))
			c.Slowest.add(name, slices.Max(took))
			for _, err := range errs {
				if err != nil {
					return c, err
				}
			}
		}
	}
	return c, nil
}

func (c crowd) String() string {
	text := fmt.Sprintf("%d at once, %d tokens:", c.Hooks, c.Tokens)
	for _, name := range []string{"floor", "poststop", "python poststop"} {
		text += fmt.Sprintf(" %s %.0f ms, the slowest %.0f;", name, c.UntilAll.median(name), c.Slowest.median(name))
	}
	return text
}
