// Measures how long a sync takes with many branches.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// synced is how long sync and git fetch took when there was nothing new.
type synced struct {
	Branches  int
	Took      series
	Processes map[int]int // git processes of a sync, by the number of branches
}

const (
	fetching = "git fetch"
	syncing  = "sync"
)

// sync measures git fetch and terok-gate's sync with this many branches. In the gate's repository,
// a container has moved every tenth of them.
func (w *world) sync(branches, rounds int) (s synced, err error) {
	s = synced{Branches: branches, Took: series{}, Processes: map[int]int{}}
	for _, n := range []int{10, branches} {
		u, err := w.upstream(n)
		if err != nil {
			return s, err
		}
		defer os.RemoveAll(u.dir)

		if s.Processes[n], err = u.gits(); err != nil {
			return s, err
		}
		if n < branches {
			continue
		}
		for range rounds {
			for name, command := range map[string]func() *exec.Cmd{fetching: u.fetch, syncing: u.sync} {
				start := time.Now()
				if err := done(command()); err != nil {
					return s, err
				}
				s.Took.add(name, time.Since(start))
			}
		}
	}
	return s, nil
}

// upstream is a directory with a forge's repository, a mirror of it that git fetches to, and a gate's
// repositories. The field gate is the path of terok-gate.
type upstream struct{ dir, forge, mirror, gate string }

func (w *world) upstream(branches int) (u upstream, err error) {
	u = upstream{gate: w.programs["gate"]}
	if u.dir, err = os.MkdirTemp("/dev/shm", "bench"); err != nil {
		return u, err
	}
	u.forge, u.mirror = filepath.Join(u.dir, "forge.git"), filepath.Join(u.dir, "mirror.git")
	if err := initBare(u.forge); err != nil {
		return u, err
	}
	if err := fillSmall(u.forge); err != nil {
		return u, err
	}

	var all, tenth strings.Builder
	for i := range branches {
		fmt.Fprintf(&all, "create refs/heads/many/%d refs/heads/main~%d\n", i, 1+i%50)
		if i%10 == 0 {
			fmt.Fprintf(&tenth, "update refs/heads/many/%d refs/heads/main\n", i)
		}
	}
	if err := u.updateRefs(u.forge, all.String()); err != nil {
		return u, err
	}
	if err := done(git(u.dir, "clone", "--quiet", "--mirror", "file://"+u.forge, u.mirror)); err != nil {
		return u, err
	}

	add := u.command("add", "demo", "file://"+u.forge)
	if err := done(add); err != nil {
		return u, err
	}
	gates := filepath.Join(u.dir, "repos", "demo.git")
	if err := u.updateRefs(gates, tenth.String()); err != nil {
		return u, err
	}
	for _, repo := range []string{u.forge, u.mirror, gates, filepath.Join(u.dir, "repos-desk", "demo.git")} {
		if err := done(git(u.dir, "--git-dir", repo, "pack-refs", "--all")); err != nil {
			return u, err
		}
	}
	return u, nil
}

func (u upstream) updateRefs(repo, commands string) error {
	update := git(u.dir, "--git-dir", repo, "update-ref", "--stdin")
	update.Stdin = strings.NewReader(commands)
	return done(update)
}

// command returns a command of terok-gate for the gate's repositories.
func (u upstream) command(name string, args ...string) *exec.Cmd {
	log := filepath.Join(u.dir, "trail.log")
	all := append([]string{"--log-file", log, name, "--repos", filepath.Join(u.dir, "repos")}, args...)
	return exec.Command(u.gate, all...)
}

func (u upstream) sync() *exec.Cmd { return u.command("sync", "demo") }

func (u upstream) fetch() *exec.Cmd {
	return git(u.dir, "--git-dir", u.mirror, "fetch", "--quiet", "--prune", "origin")
}

// gits counts the git programs that a sync starts.
func (u upstream) gits() (int, error) {
	trace := filepath.Join(u.dir, "trace")
	sync := u.sync()
	strace := exec.Command("strace", append([]string{"-f", "-qqq", "-e", "trace=execve", "-e", "signal=none", "-o", trace}, sync.Args...)...)
	if err := done(strace); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(trace)
	return len(startedGit.FindAll(text, -1)), err
}

func (s synced) String() string {
	text := fmt.Sprintf("%d branches: git fetch %.0f ms, sync %.0f ms (%.2f times)", s.Branches, s.Took.median(fetching), s.Took.median(syncing),
		s.Took.median(syncing)/s.Took.median(fetching))
	for _, n := range []int{10, s.Branches} {
		text += fmt.Sprintf("; %d git processes with %d branches", s.Processes[n], n)
	}
	return text
}
