// When a process is dead: the proof that a sweep needs before it revokes a token.

package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Process ties a token to one life of one process on one machine. A pid alone
// does not: it is used again, after a reboot above all.
type Process struct {
	Machine string `json:"machine"` // machine-id(5)
	Boot    string `json:"boot"`    // /proc/sys/kernel/random/boot_id
	PIDNS   string `json:"pid_ns"`  // the pid namespace in which PID counts, as in /proc/self/ns/pid
	TimeNS  string `json:"time_ns"` // the time namespace in which Start counts
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"` // clock ticks since boot, proc_pid_stat(5) field 22
}

// Life is what can be proved of a process.
type Life int

// A process is Unknown unless there is proof: no permission to look, a hidden
// /proc, another machine or another pid or time namespace prove nothing.
const (
	Unknown Life = iota
	Alive
	Dead
)

func (l Life) String() string {
	return [...]string{"unknown", "alive", "dead"}[l]
}

// Life tells whether the process is alive, as seen from here. A nil process is
// Unknown.
func (p *Process) Life() Life { return here().life(p) }

// ProcessOf describes the running process with this pid of ours.
func ProcessOf(pid int) (*Process, error) {
	j := here()
	start, err := startTime(pid)
	if err != nil {
		return nil, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	return &Process{
		Machine: j.machine, Boot: j.boot, PIDNS: j.pidNS, TimeNS: j.timeNS,
		PID: pid, Start: start,
	}, nil
}

// judge tells the living from the dead, as seen from one place: this machine,
// boot, pid and time namespace.
type judge struct {
	machine, boot, pidNS, timeNS string
	ownProc                      bool // /proc shows our own pid namespace
}

// here is the place that this process judges from. Asked when first needed, not at
// start.
var here = sync.OnceValue(func() judge {
	link := func(path string) string {
		target, _ := os.Readlink(path)
		return target
	}
	return judge{
		machine: machineID(),
		boot:    firstLine("/proc/sys/kernel/random/boot_id"),
		pidNS:   link("/proc/self/ns/pid"),
		timeNS:  link("/proc/self/ns/time"), // empty on a kernel without time namespaces
		ownProc: procIsOurs(),
	}
})

// life tells whether the process is alive, dead, or cannot be judged from here.
func (j judge) life(p *Process) Life {
	life, pidfd := j.look(p)
	if pidfd >= 0 {
		unix.Close(pidfd)
	}
	return life
}

// look does what life does and keeps the living in sight: pidfd is for the caller
// to close if the process is alive, else -1. It does not block.
func (j judge) look(p *Process) (life Life, pidfd int) {
	if p == nil || p.PID <= 0 || p.Machine == "" || p.Machine != j.machine || p.Boot == "" || j.boot == "" {
		return Unknown, -1
	}
	if p.Boot != j.boot {
		return Dead, -1
	}
	if p.PIDNS == "" || p.PIDNS != j.pidNS || p.TimeNS != j.timeNS || !j.ownProc {
		return Unknown, -1
	}
	pidfd, pidfdErr := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(pidfdErr, unix.ESRCH) {
		return Dead, -1
	}
	start, statErr := startTime(p.PID)
	var over bool
	var pollErr error
	if pidfdErr == nil {
		// Asked last: if it is not over now, what stat said was said of this process.
		// A pidfd polls readable once every thread has ended, reaped or not
		// (pidfd_open(2)); state Z in stat comes earlier, when only the leader has.
		over, pollErr = readable(pidfd)
	}
	switch {
	case over, statErr == nil && start != p.Start:
		life = Dead
	case pidfdErr == nil && pollErr == nil && statErr == nil:
		return Alive, pidfd
	}
	if pidfdErr == nil {
		unix.Close(pidfd)
	}
	return life, -1
}

// startTime reads field 22 of /proc/<pid>/stat. The command's name, field 2, may
// hold anything, spaces and parentheses included, so fields count from its end.
func startTime(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	stat, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s has %d fields after the name, not 20 or more", path, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

func readable(fd int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}

// machineID returns machine-id(5), or "" where there is none or, in the words of
// systemd's first boot, it is "uninitialized".
func machineID() string {
	if id := firstLine("/etc/machine-id"); len(id) == 32 {
		return id
	}
	return ""
}

func firstLine(path string) string {
	content, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(content), "\n")
	return strings.TrimSpace(line)
}

// procIsOurs tells whether /proc was mounted in our pid namespace. NSpid lists our
// pids from that of the mount down to our own (proc_pid_status(5)): exactly one
// then, the one that getpid(2) returns.
func procIsOurs() bool {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.TrimSpace(pids) == strconv.Itoa(os.Getpid())
		}
	}
	return false
}
