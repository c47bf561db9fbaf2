// The costs of a stage that no clock is needed for: system calls, page faults, allocations.

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// cost is what a run takes that does not depend on a clock.
type cost struct {
	faults      int            // page faults
	allocations int            // of memory, from main on
	calls       map[string]int // system calls, by name
}

// seen is what the stages were seen to cost beyond a Go program that does nothing, on Linux 6.18.
// A fifth more is allowed, since some of the costs vary, also from kernel to kernel.
// A change that makes a stage more expensive, for good reason, updates these numbers.
var seen = map[string]cost{
	"prestart": {faults: 194, allocations: 1000, calls: map[string]int{
		"close": 27, "epoll_create1": 1, "epoll_ctl": 5, "eventfd2": 1, "fchmod": 4, "fchown": 2,
		"fcntl": 14, "flock": 2, "fsconfig": 6, "fsmount": 1, "fsopen": 1, "fstat": 7, "fstatfs": 1,
		"fsync": 1, "geteuid": 1, "getrandom": 1, "lseek": 1, "mount_setattr": 1, "move_mount": 1, "newfstatat": 5,
		"openat": 21, "openat2": 2, "pidfd_open": 1, "ppoll": 2, "prlimit64": 1, "pwritev": 1,
		"read": 20, "readlinkat": 7, "renameat": 1, "sendto": 1, "setns": 1, "socket": 1, "statx": 1,
		"umask": 1, "unshare": 1, "utimensat": 1, "write": 5,
	}},
	"poststop": {faults: 118, allocations: 392, calls: map[string]int{ // of the allocations 95 are the trail's JSON
		"close": 13, "epoll_create1": 1, "epoll_ctl": 2, "eventfd2": 1, "fcntl": 3, "flock": 2,
		"fstat": 4, "fsync": 1, "geteuid": 2, "lseek": 1, "newfstatat": 5, "openat": 12, "pidfd_open": 1,
		"prlimit64": 1, "pwritev": 1, "read": 16, "readlinkat": 2, "renameat": 1, "sendto": 1,
		"socket": 1, "unlinkat": 2, "utimensat": 1, "write": 1,
	}},
}

// Every page fault, allocation and system call delays a container's start or end.
func TestAStageCostsNoMoreThanItDid(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "strace")

	// Programs on a tmpfs, as /tmp is from Debian 13 on, take other page faults.
	dir, err := os.MkdirTemp("/var/tmp", "terok-bench-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })

	w := world{dir: filepath.Join(dir, "world"), programs: map[string]string{}}
	for name, program := range map[string]string{
		"hook": "terok-gate-hook", "nothing": "terok-gate-hook/bench/nothing",
	} {
		w.programs[name] = filepath.Join(dir, name)
		must(t, build(w.programs[name], program))
	}
	w.programs["allocations"] = filepath.Join(dir, "allocations")
	must(t, build(w.programs["allocations"], "terok-gate-hook", "-overlay", countAllocations(t)))
	must(t, w.furnish(10, 0))

	nothing := cost{faults: w.faults(t, "nothing"), calls: w.calls(t, "nothing")}
	for _, stage := range []string{"prestart", "poststop"} {
		t.Run(stage, func(t *testing.T) {
			within := func(what string, now, was int, grown string) {
				if now > was+was/5 {
					t.Errorf("%s: %d, not %d as before%s. A container waits for that: if the change is worth the wait, update the numbers in %s",
						what, now, was, grown, "bench/cost_test.go")
				}
			}

			was := seen[stage]
			within("page faults", w.faults(t, stage)-nothing.faults, was.faults, "")
			within("allocations", w.allocations(t, stage), was.allocations, "")

			total, before, grown := 0, 0, ""
			for _, n := range was.calls {
				before += n
			}
			calls := w.calls(t, stage)
			for _, name := range slices.Sorted(maps.Keys(calls)) {
				now := calls[name] - nothing.calls[name]
				total += now
				if now > was.calls[name] {
					grown += fmt.Sprintf(", %s(2) %d times instead of %d", name, now, was.calls[name])
				}
			}
			within("system calls", total, before, grown)
		})
	}
}

// The container's process is opened once: a pid that is looked up again can be another
// process's by then.
func TestAStartOpensTheContainersProcessOnce(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "strace")
	dir := t.TempDir()
	w := world{dir: filepath.Join(dir, "world"), programs: map[string]string{}}
	for name, program := range map[string]string{"hook": "terok-gate-hook", "nothing": "terok-gate-hook/bench/nothing"} {
		w.programs[name] = filepath.Join(dir, name)
		must(t, build(w.programs[name], program))
	}
	must(t, w.furnish(0, 0))
	text := w.trace(t, "prestart")

	for call, opens := range map[string]*regexp.Regexp{
		"pidfd_open(2)":      regexp.MustCompile(`pidfd_open\(`),
		"a look-up in /proc": regexp.MustCompile(`"/proc/([2-9]|\d{2,})[/"]`),
	} {
		if found := opens.FindAllString(text, -1); len(found) != 1 {
			t.Errorf("%s: %d times, not once: %q", call, len(found), found)
		}
	}
}

// faults counts the page faults of a program or a stage. Some happen by chance, so faults returns
// the number of the run with the fewest.
func (w *world) faults(t *testing.T, name string) int {
	var all []int
	for range 20 {
		cmd := w.command(name)
		w.run(t, name, cmd)
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		all = append(all, int(usage.Minflt+usage.Majflt))
	}
	return slices.Min(all)
}

// countAllocations returns an overlay by which go build replaces the hook's main by one that
// counts allocations.
func countAllocations(t *testing.T) string {
	root, err := filepath.Abs("..")
	must(t, err)
	content, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "main.go"): filepath.Join(root, "bench/allocations.go.txt"),
	}})
	must(t, err)
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	must(t, os.WriteFile(overlay, content, 0o600))
	return overlay
}

// allocations counts the allocations of a stage.
func (w *world) allocations(t *testing.T, stage string) int {
	var all []int
	for range 5 {
		cmd := w.command(stage)
		cmd.Path = w.programs["allocations"]
		n, err := strconv.Atoi(strings.TrimSpace(w.run(t, stage, cmd)))
		must(t, err)
		all = append(all, n)
	}
	return slices.Min(all)
}

// calls counts the system calls of a program or a stage, except those that the Go runtime
// makes when it likes.
func (w *world) calls(t *testing.T, name string) map[string]int {
	calls := map[string]int{}
	for _, begun := range aCall.FindAllStringSubmatch(w.trace(t, name), -1) {
		calls[begun[1]]++
	}
	return calls
}

// trace returns strace's output, without the calls that the Go runtime makes when it likes.
func (w *world) trace(t *testing.T, name string) string {
	const atWill = "/^(clone3?|exit(_group)?|futex|nanosleep|sched_.*|sigaltstack|rt_sig.*|get[pt]id|tgkill|mmap|munmap|madvise|prctl|epoll_.*wait|restart_syscall)$"
	trace := filepath.Join(w.dir, "trace")
	cmd := w.command(name)
	args := []string{"-f", "-qqq", "-e", "signal=none", "-e", "trace=!" + atWill, "-o", trace}
	w.run(t, name, exec.Command("strace", append(args, cmd.Args...)...))
	text, err := os.ReadFile(trace)
	must(t, err)
	return string(text)
}

// aCall matches the beginning of a call in strace's output.
var aCall = regexp.MustCompile(`(?m)^\d+ +(\w+)\(`)

// run runs the command as a runtime would, in the life of a container of its own, and
// returns what it says on standard error.
func (w *world) run(t *testing.T, name string, cmd *exec.Cmd) string {
	t.Helper()
	state, _, end, err := w.container("c0ffee", 0)
	must(t, err)
	defer end()
	stderr := &strings.Builder{}
	cmd.Stderr = stderr
	for _, stage := range []string{"prestart", "nothing", "poststop"} {
		if stage == "poststop" {
			end()
		}
		run := w.command(stage)
		if stage == name {
			run = cmd
		}
		_, err := timed(run, state)
		must(t, err)
	}
	return stderr.String()
}

var must = testenv.Must
