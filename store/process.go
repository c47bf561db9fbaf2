// Describes processes, and proves that a process is dead. Without that proof, a sweep revokes no
// token.

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Process identifies a process that a token is tied to, among all processes of all boots and
// machines. A pid is not enough: pids are reused, especially after a reboot.
type Process struct {
	Machine string `json:"machine"` // machine-id(5); empty if there is none
	Boot    string `json:"boot"`    // /proc/sys/kernel/random/boot_id
	PIDNS   string `json:"pid_ns"`  // the pid namespace in which PID counts, as in /proc/self/ns/pid
	TimeNS  string `json:"time_ns"` // the time namespace in which Start counts
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"`           // in clock ticks since boot: field 22 of proc_pid_stat(5)
	Inode   uint64 `json:"inode,omitempty"` // of its pidfd, unique within a boot; 0 before Linux 6.9
}

// Life says whether a process is provably alive or dead.
type Life int

// A process is Unknown if there is no proof. Nothing is proved if a permission is lacking, if /proc
// is hidden, or if the process belongs to another machine or to another pid or time namespace.
const (
	Unknown Life = iota
	Alive
	Dead
)

func (l Life) String() string {
	return [...]string{"unknown", "alive", "dead"}[l]
}

// Life reports whether the process is alive, as seen from here. A nil process is
// Unknown.
func (p *Process) Life() Life { return here().life(p) }

func (p *Process) open() (pidfd int, life Life, err error) { return here().open(p) }

// judge decides whether a process is alive, as seen from one place: this machine, boot, pid
// namespace and time namespace.
type judge struct {
	machine, boot, pidNS, timeNS string
	ownProc                      bool  // /proc shows our own pid namespace
	unsure                       error // the first error in reading the above, other than fs.ErrNotExist
}

// here returns the judge of this process. The judge is made at the first call, not at the start of
// the program.
var here = sync.OnceValue(func() judge {
	var j judge
	note := func(err error) {
		if j.unsure == nil && !errors.Is(err, fs.ErrNotExist) {
			j.unsure = err
		}
	}
	link := func(path string) string {
		target, err := os.Readlink(path)
		note(err)
		return target
	}
	line := func(path string) string {
		content, err := readSmall(unix.AT_FDCWD, path)
		note(err)
		first, _, _ := strings.Cut(string(content), "\n")
		return strings.TrimSpace(first)
	}

	// During systemd's first boot the id is "uninitialized" (machine-id(5)).
	if j.machine = line("/etc/machine-id"); len(j.machine) != 32 {
		j.machine = ""
	}
	j.boot = line("/proc/sys/kernel/random/boot_id")
	j.pidNS = link("/proc/self/ns/pid")
	j.timeNS = link("/proc/self/ns/time") // empty on a kernel without time namespaces

	status, err := readSmall(unix.AT_FDCWD, "/proc/self/status")
	note(err)
	j.ownProc = procIsOurs(string(status))
	return j
})

// life returns Alive, Dead, or Unknown if the process cannot be judged from here.
func (j judge) life(p *Process) Life {
	pidfd, life, _ := j.open(p)
	if pidfd >= 0 {
		unix.Close(pidfd)
	}
	return life
}

// canDescribe returns an error if a description made here would lack a part that is needed. The
// machine's id is not needed, since the boot's id identifies the machine until the next boot.
func (j judge) canDescribe() error {
	switch {
	case j.unsure != nil:
		return j.unsure
	case j.boot == "":
		return errors.New("cannot read the boot's id from /proc/sys/kernel/random/boot_id")
	case j.pidNS == "":
		return errors.New("cannot read our pid namespace from /proc/self/ns/pid")
	case !j.ownProc:
		return errors.New("/proc was mounted in another pid namespace")
	}
	return nil
}

// byDescription judges a process without examining it, by its description alone. sure is true if an
// examination from here could not tell more.
//
// Boot ids are random, so two processes with the same boot id are on the same machine. If the boot
// ids differ, the machine id tells whether the process belongs to another boot of this machine or
// to another machine.
func (j judge) byDescription(p *Process) (life Life, sure bool) {
	switch {
	case p == nil || p.PID <= 0 || p.Boot == "" || j.boot == "":
		return Unknown, true
	case p.Boot != j.boot && p.Machine != "" && p.Machine == j.machine:
		return Dead, true
	case p.Boot != j.boot, p.PIDNS == "", p.PIDNS != j.pidNS, p.TimeNS != j.timeNS, !j.ownProc:
		return Unknown, true
	}
	return Unknown, false
}

// endsWithBoot reports whether the next boot of this machine will prove the process dead. It is
// false if the machine's id is not known, and for a process of another machine.
func (j judge) endsWithBoot(p *Process) bool {
	j.boot = "the next"
	life, _ := j.byDescription(p)
	return life == Dead
}

// glance is Life at a tenth of the cost. If the description alone does not decide, and any process
// has the pid now, this one or another, glance cannot judge the process, and sure is false.
func (p *Process) glance() (life Life, sure bool) {
	j := here()
	if life, sure := j.byDescription(p); sure {
		return life, true
	}
	// Like kill(2) with signal 0, getpgid(2) fails if no process has the pid, but it takes half the
	// time.
	if _, err := unix.Getpgid(p.PID); !errors.Is(err, unix.ESRCH) {
		return Unknown, false
	}
	return j.life(p), true
}

// open returns what Life returns, and opens the process if it is alive. The caller must then close
// pidfd; otherwise, pidfd is -1. A pidfd polls readable once the process has ended (pidfd_open(2)).
// If a process that may be alive cannot be opened, for example for lack of descriptors, open
// returns Unknown and an error.
func (j judge) open(p *Process) (pidfd int, life Life, err error) {
	if life, sure := j.byDescription(p); sure {
		return -1, life, nil
	}

	pidfd, err = unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return -1, Dead, nil
	}
	if err != nil {
		if start, err := startTimeNow(p.PID); err == nil && start != p.Start {
			return -1, Dead, nil
		}
		return -1, Unknown, fmt.Errorf("open process %d: %w", p.PID, err)
	}

	if life = p.lifeOf(pidfd); life != Alive {
		unix.Close(pidfd)
		pidfd = -1
	}
	return pidfd, life, nil
}

// lifeOf returns whether this process is alive. pidfd was opened with this process's pid, and may
// belong to a later process with that pid.
func (p *Process) lifeOf(pidfd int) Life {
	inode, err := pidfdInode(pidfd)
	same, known := inode == p.Inode, err == nil && inode != 0 && p.Inode != 0
	if !known {
		var start uint64
		start, err = startTimeNow(p.PID)
		same, known = start == p.Start, err == nil
	}

	// The pidfd is polled last: if its process has not ended by now, the stat that was read above
	// belonged to that process. A pidfd polls readable once every thread has ended, reaped or not
	// (pidfd_open(2)). State Z in stat comes earlier, when only the leader has ended.
	over, err := readable(pidfd)
	switch {
	case over, known && !same:
		return Dead
	case known && err == nil:
		return Alive
	}
	return Unknown
}

// pidfdInode returns the inode of a pidfd. It returns 0 if all pidfds share one inode, as they do
// before Linux 6.9, which introduced pidfs.
func pidfdInode(pidfd int) (uint64, error) {
	if !pidfs.Load() {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(pidfd, &fs); err != nil || fs.Type != unix.PID_FS_MAGIC {
			return 0, err
		}
		pidfs.Store(true)
	}
	var stat unix.Stat_t
	err := unix.Fstat(pidfd, &stat)
	return stat.Ino, err
}

// pidfs is set once a pidfd was found to be on pidfs.
var pidfs atomic.Bool

// readSmall is os.ReadFile for a small file of the kernel, with half the system calls. The path is
// relative to the directory with the descriptor dir, as in openat(2).
func readSmall(dir int, path string) ([]byte, error) {
	fd, err := openAt(dir, path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)

	content, err := readAll(fd, 4096, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return content, nil
}

// startTime returns field 22 of a /proc/<pid>/stat, at this path. Field 2, the command's name, may
// contain spaces and parentheses, so fields are counted from the end of that name.
func startTime(dir int, path string) (uint64, error) {
	stat, err := readSmall(dir, path)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s has %d fields after the name, not 20 or more", path, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// startTimeNow returns the start time of the process that has the pid now.
func startTimeNow(pid int) (uint64, error) {
	return startTime(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/stat", pid))
}

// readable reports whether the descriptor polls readable now.
func readable(fd int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}

// procIsOurs reports whether /proc was mounted in our pid namespace, given the content of
// /proc/self/status. NSpid in that file lists our pids, from the one in the namespace of the mount
// down to the one in our own (proc_pid_status(5)). If the two namespaces are the same, the list has
// a single pid, the one that getpid(2) returns.
func procIsOurs(status string) bool {
	for line := range strings.Lines(status) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.TrimSpace(pids) == strconv.Itoa(os.Getpid())
		}
	}
	return false
}
