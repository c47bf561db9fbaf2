// Measures whole commands of a client's git with each server, and counts the git processes that the
// server starts for them.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// commands is how long whole commands of a client's git took, in milliseconds, and how many git
// processes the server started for each.
type commands struct {
	Took      map[string]series         // by command
	Processes map[string]map[string]int // by command and server
}

const (
	lsRemote = "git ls-remote"
	shallow  = "git clone --depth 1"
)

// command returns a client's git command for a server.
func (h *house) command(name, server string) *exec.Cmd {
	url := h.url(server, h.token, small)
	if name == lsRemote {
		return git(h.dir, "ls-remote", "--quiet", url)
	}
	return git(h.dir, "clone", "--quiet", "--depth", "1", url, "clone")
}

func (h *house) commands(rounds int) (commands, error) {
	c := commands{map[string]series{}, map[string]map[string]int{}}

	for _, name := range []string{lsRemote, shallow} {
		c.Took[name], c.Processes[name] = series{}, map[string]int{}
		for range rounds {
			for _, server := range servers {
				start := time.Now()
				if err := done(h.command(name, server)); err != nil {
					return c, err
				}
				c.Took[name].add(server, time.Since(start))
				if err := os.RemoveAll(filepath.Join(h.dir, "clone")); err != nil {
					return c, err
				}
			}
		}

		for server, processes := range map[string][]int{"gate": {h.gate.Process.Pid}, "nginx": children(h.fcgiwrap.Process.Pid)} {
			var err error
			if c.Processes[name][server], err = h.gits(h.command(name, server), processes); err != nil {
				return c, err
			}
			if err := os.RemoveAll(filepath.Join(h.dir, "clone")); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// gits runs a command, and counts the git programs that these processes start meanwhile.
func (h *house) gits(command *exec.Cmd, processes []int) (number int, err error) {
	trace := filepath.Join(h.dir, "trace")
	strace := exec.Command("strace", "-f", "-qqq", "-e", "trace=execve", "-e", "signal=none", "-o", trace)
	for _, pid := range processes {
		strace.Args = append(strace.Args, "-p", strconv.Itoa(pid))
	}
	if err := strace.Start(); err != nil {
		return 0, err
	}

	for _, pid := range processes {
		for end := time.Now().Add(10 * time.Second); !traced(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				err = errors.Join(err, fmt.Errorf("process %d is not traced", pid))
				break
			}
		}
	}

	err = errors.Join(err, done(command))
	_ = strace.Process.Signal(syscall.SIGTERM) // strace then detaches from the processes
	_ = strace.Wait()
	text, readErr := os.ReadFile(trace)
	return len(startedGit.FindAll(text, -1)), errors.Join(err, readErr)
}

// startedGit matches a line of strace's output that says that a process has executed a git program.
var startedGit = regexp.MustCompile(`(?m)execve\("[^"]*/git[^"/]*".* = 0$`)

// traced reports whether all threads of a process are traced.
func traced(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err == nil && bytes.Contains(status, []byte("TracerPid:\t0\n")) {
			return false
		}
	}
	return true
}

// children returns the processes that a process has started.
func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func (c commands) String() (text string) {
	for _, name := range []string{lsRemote, shallow} {
		text += name + ":"
		for _, server := range servers {
			text += fmt.Sprintf(" %s %.1f ms;", server, c.Took[name].median(server))
		}
		text += fmt.Sprintf(" git processes: gate %d, nginx %d\n", c.Processes[name]["gate"], c.Processes[name]["nginx"])
	}
	return strings.TrimSuffix(text, "\n")
}
