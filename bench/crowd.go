package main

import (
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// crowd starts so many hooks at once, each about another container, and prints medians of
// how long it takes until all are done, and the slowest of them.
func (w *world) crowd(tokens, hooks, rounds int) error {
	totals, longests := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range rounds {
		if err := w.write(tokens); err != nil {
			return err
		}
		for _, p := range []struct {
			name string
			args []string
		}{
			{"floor", []string{w.programs["floor"], w.tokens()}},
			{"poststop", []string{w.programs["hook"], "--token-file", w.tokens(), "--lock-timeout", "1m", "poststop"}},
		} {
			var all sync.WaitGroup
			took, errs := make([]spent, hooks), make([]error, hooks)
			start := time.Now()
			for i := range hooks {
				state := fmt.Sprintf(`{"ociVersion":"1.0.0","id":"%064x","status":"stopped","bundle":"/"}`, i+1)
				all.Go(func() { took[i], errs[i] = timed(exec.Command(p.args[0], p.args[1:]...), state) })
			}
			all.Wait()
			totals[p.name] = append(totals[p.name], time.Since(start))
			for _, err := range errs {
				if err != nil {
					return err
				}
			}
			slowest := slices.MaxFunc(took, func(a, b spent) int { return int(a.wall - b.wall) })
			longests[p.name] = append(longests[p.name], slowest.wall)
		}
	}
	median := func(of []time.Duration) time.Duration {
		slices.Sort(of)
		return of[len(of)/2]
	}
	for name, of := range map[string]map[string][]time.Duration{"until all are done": totals, "the slowest": longests} {
		floor, poststop := median(of["floor"]), median(of["poststop"])
		fmt.Printf("%8d tokens, %d at once, %s: floor %.0f ms, poststop %.0f ms, / floor %.2f\n",
			tokens, hooks, name, ms(floor), ms(poststop), ratio(poststop, floor))
	}
	return nil
}
