// Measures large and many transfers: a clone and a push of 200 MiB, and a hundred small clones
// at once.

package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"terok-gate-hook/store"
)

// transfers is how long a clone and a push of the large repository took, in milliseconds.
type transfers struct{ Clone, Push series }

// fillLarge fills a repository with random files, without compression, so that git sends their pack
// as it is.
func fillLarge(repo string) error {
	for _, setting := range [][]string{{"core.compression", "0"}, {"pack.compression", "0"}} {
		if err := done(git(repo, append([]string{"config"}, setting...)...)); err != nil {
			return err
		}
	}
	in, out := io.Pipe()
	go func() {
		stream := bufio.NewWriter(out)
		random, noise := rand.NewChaCha8([32]byte{}), make([]byte, 1<<20)
		fmt.Fprintf(stream, "commit refs/heads/main\ncommitter A <a@example> 1700000000 +0000\ndata 6\ncommit\n")
		for i := range largeMiB {
			_, _ = random.Read(noise)
			fmt.Fprintf(stream, "M 644 inline file-%d\ndata %d\n%s\n", i, len(noise), noise)
		}
		out.CloseWithError(stream.Flush())
	}()
	cmd := git(repo, "fast-import", "--quiet")
	cmd.Stdin = in
	return done(cmd)
}

func (h *house) transfers(rounds int) (t transfers, err error) {
	t = transfers{series{}, series{}}
	tokens := map[string]string{}
	for _, project := range []string{large, empty} {
		if tokens[project], err = h.issue(store.Entry{Grant: store.Grant{Project: project, Task: "bench"}}); err != nil {
			return t, err
		}
	}

	clone, pushed := filepath.Join(h.dir, "clone"), filepath.Join(h.repos, empty+".git")
	for range rounds {
		for _, server := range servers {
			start := time.Now()
			if err := done(git(h.dir, "clone", "--quiet", "--bare", h.url(server, tokens[large], large), clone)); err != nil {
				return t, err
			}
			t.Clone.add(server, time.Since(start))
			if err := os.RemoveAll(clone); err != nil {
				return t, err
			}
		}

		for _, server := range servers {
			if server == "python" {
				continue // the Python gate accepts no body in chunks
			}

			start := time.Now()
			if err := done(git(filepath.Join(h.repos, large+".git"), "push", "--quiet", h.url(server, tokens[empty], empty), "main")); err != nil {
				return t, err
			}
			t.Push.add(server, time.Since(start))
			if err := os.RemoveAll(pushed); err != nil {
				return t, err
			}
			if err := initBare(pushed); err != nil {
				return t, err
			}
		}
	}
	return t, nil
}

func (t transfers) String() (text string) {
	for _, of := range []struct {
		name string
		took series
	}{{"clone", t.Clone}, {"push", t.Push}} {
		text += fmt.Sprintf("%s of %d MiB:", of.name, largeMiB)
		for _, server := range servers {
			if took := of.took.median(server); took > 0 {
				text += fmt.Sprintf(" %s %.0f MiB/s (%.3f);", server, perSecond(took), of.took.median("floor")/took)
			}
		}
		text += " "
	}
	return text
}

// perSecond returns the MiB a second of a transfer that took this many milliseconds.
func perSecond(ms float64) float64 { return 1000 * largeMiB / ms }

// clones is how long it took until all of several clones of the small repository, begun at once,
// were done. Each clone has a token of its own, as a container has.
type clones struct {
	Number   int
	UntilAll series
	Failed   map[string]int64
	GateMB   float64 // the gate's memory at its peak
}

func (h *house) clones(number, rounds int) (c clones, err error) {
	c = clones{number, series{}, map[string]int64{}, 0}
	tokens := make([]string, number)
	for i := range tokens {
		if tokens[i], err = h.issue(store.Entry{Grant: store.Grant{Project: small, Task: fmt.Sprint(i)}}); err != nil {
			return c, err
		}
	}

	for range rounds {
		for _, server := range servers {
			var all sync.WaitGroup
			var failed atomic.Int64
			start := time.Now()
			for i, token := range tokens {
				all.Go(func() {
					if done(git(h.dir, "clone", "--quiet", h.url(server, token, small), fmt.Sprint("clones/", i))) != nil {
						failed.Add(1)
					}
				})
			}

			all.Wait()
			c.UntilAll.add(server, time.Since(start))
			c.Failed[server] += failed.Load()
			if err := os.RemoveAll(filepath.Join(h.dir, "clones")); err != nil {
				return c, err
			}
		}
	}

	c.GateMB, err = peakMB(h.gate.Process.Pid)
	return c, err
}

func (c clones) String() string {
	text := fmt.Sprintf("%d clones at once:", c.Number)
	for _, server := range servers {
		text += fmt.Sprintf(" %s %.0f ms, %d failed;", server, c.UntilAll.median(server), c.Failed[server])
	}
	return text + fmt.Sprintf(" the gate's memory at its peak: %.0f MB", c.GateMB)
}
