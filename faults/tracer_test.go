// The tracer is a small strace(1), made with ptrace(2). It runs a program and names each
// system call of the program by what the call does to which object (describe). It can make
// a call fail, before or after the call has had its effect, or kill the program there. The
// caller of traced decides that. Calls that touch nothing outside the process are left
// alone.
//
// To skip a call and to change the result of a call, the tracer must know the processor's
// registers (registers_*_test.go). It knows those of amd64. It could not be tried on arm64,
// where tests that need it are left out (needTracer).

package faults

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
)

// program is the hook or terok-gate, with its arguments and standard input.
type program struct {
	args  []string
	stdin string
}

// binary is the hook if the arguments name a stage, else terok-gate.
func (p program) binary() string {
	if slices.ContainsFunc(p.args, func(arg string) bool { return slices.Contains(hook.Stages, arg) }) {
		return hookBinary
	}
	return gateBinary
}

// waiting returns the program with this --lock-timeout.
func (p program) waiting(limit time.Duration) program {
	return program{append([]string{"--lock-timeout", limit.String()}, p.args...), p.stdin}
}

// finished is the result of a program that has ended.
type finished struct {
	status         int // -1: ended by SIGKILL
	stdout, stderr string
	calls          []call // that touch anything outside the process, in their order
	result         []unix.Errno
}

// call is one system call of a program: the n-th with this name about this object.
type call struct {
	name   string
	object string
	n      int
}

func (c call) String() string { return fmt.Sprintf("%s(%s) #%d", c.name, c.object, c.n) }

// when says at which point of a call a fault happens.
type when int

const (
	before when = iota // the call has no effect
	after              // the call has had its effect
)

func (w when) String() string { return [...]string{"before", "after"}[w] }

// fault is what happens to a program at a call; the zero value is nothing.
type fault struct {
	when when
	kill bool
	fail unix.Errno
}

func (f fault) String() string {
	if f.kill {
		return "SIGKILL " + f.when.String()
	}
	return unix.ErrnoName(f.fail) + " " + [...]string{"instead of", "after"}[f.when]
}

// order is a program for a tracer. A tracer runs programs on an operating-system thread of
// its own, one at a time: ptrace(2) and the children to wait for belong to a thread.
type order struct {
	program program
	base    string // left out of the names of objects
	at      func(call, when, unix.Errno) fault
	done    chan<- delivery
}

type delivery struct {
	finished finished
	err      error
}

var orders = make(chan order)

// parallel is how many programs a test with many programs runs at once. They often wait,
// since the kernel takes long to remove namespaces.
var parallel = min(8, 2*runtime.GOMAXPROCS(0))

// startTracers must be called while the test process has no children, so that the tracers'
// threads have none that they do not know.
func startTracers() {
	for range parallel {
		go func() {
			runtime.LockOSThread()
			for o := range orders {
				f, err := trace(o)
				o.done <- delivery{f, err}
			}
		}()
	}
}

// traced runs a program to its end. Before and after each call that touches anything
// outside the process, it calls the function at, which returns the fault to inject. After
// the call, at also gets what the call returned.
func traced(p program, base string, at func(call, when, unix.Errno) fault) (finished, error) {
	done := make(chan delivery)
	orders <- order{p, base, at, done}
	d := <-done
	return d.finished, d.err
}

func needTracer(t *testing.T) {
	t.Helper()
	testenv.NeedAlone(t)
	if !canTrace {
		testenv.Cannot(t, "the tracer does not know the registers of %s", runtime.GOARCH)
	}
}

// thread is a thread of the program between two stops.
type thread struct {
	current int        // index of the call that it is in, or -1
	fail    unix.Errno // what the call it is in shall return
}

// endless is a number of calls that only a program without end makes.
const endless = 10_000

// tracing is one run of a program.
type tracing struct {
	order
	finished
	leader  int
	threads map[int]*thread
	seen    map[call]int
}

func trace(o order) (finished, error) {
	files, collect, err := standardFiles(o.program.stdin)
	if err != nil {
		return finished{}, err
	}
	process, err := startStopped(o.program, files)
	if err != nil {
		return finished{}, err
	}
	defer process.Release()

	t := &tracing{order: o, leader: process.Pid, threads: map[int]*thread{}, seen: map[call]int{}}
	tid, deliver, status := t.leader, 0, unix.WaitStatus(0)
	for {
		// ESRCH: the program was killed meanwhile, and its end is still to be waited for.
		if err := unix.PtraceSyscall(tid, deliver); err != nil && err != unix.ESRCH {
			return t.finished, fmt.Errorf("let thread %d go on: %w", tid, err)
		}

		if tid, status, err = nextStop(t.leader); err != nil {
			return t.finished, fmt.Errorf("wait for the program: %w", err)
		}
		if !status.Stopped() {
			err := t.ended(status, collect)
			return t.finished, err
		}
		if deliver, err = t.stopped(tid, status); err != nil {
			return t.finished, err
		}
	}
}

// startStopped starts a program that stops at its first instruction and is traced.
func startStopped(p program, files []*os.File) (*os.Process, error) {
	process, err := os.StartProcess(p.binary(), append([]string{p.binary()}, p.args...), &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	for _, file := range files[:1] {
		file.Close()
	}
	if err != nil {
		return nil, err
	}

	status, err := waitFor(process.Pid, unix.WALL)
	if err == nil && !status.Stopped() {
		err = fmt.Errorf("the program is not stopped at its start: %#x", status)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err == nil {
		if err = unix.PtraceSetOptions(process.Pid, options); err != nil {
			err = fmt.Errorf("trace: %w", err)
		}
	}
	if err != nil {
		process.Release()
		return nil, err
	}
	return process, nil
}

// ended records how the program ended and what it printed.
func (t *tracing) ended(status unix.WaitStatus, collect func() (stdout, stderr string, err error)) (err error) {
	t.status = status.ExitStatus() // -1 if it was ended by a signal
	if status.Signaled() && status.Signal() != unix.SIGKILL {
		return fmt.Errorf("the program was ended by %v", status.Signal())
	}

	t.stdout, t.stderr, err = collect()
	if len(t.calls) >= endless {
		err = fmt.Errorf("the program made %d system calls and would have gone on, the last one is %v", len(t.calls), t.calls[len(t.calls)-1])
	}
	return err
}

// stopped records the call that a thread has stopped at, injects a fault if one is wanted,
// and returns the signal to deliver to the thread, or 0.
func (t *tracing) stopped(tid int, status unix.WaitStatus) (deliver int, err error) {
	th := t.threads[tid]
	if th == nil {
		th = &thread{current: -1}
		t.threads[tid] = th
		if status.StopSignal() == unix.SIGSTOP {
			return 0, nil // every new thread begins with one
		}
	}

	switch sig := status.StopSignal(); {
	case sig == unix.SIGTRAP && status.TrapCause() > 0:
		return 0, nil // clone(2)
	case sig != unix.SIGTRAP|0x80:
		return int(sig), nil // the Go runtime's own
	}

	info, err := syscallInfo(tid)
	if err == unix.ESRCH {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at a system call: %w", err)
	}

	var strike fault
	switch info.op {
	case unix.PTRACE_SYSCALL_INFO_ENTRY:
		strike, err = t.enters(tid, th, info)
	case unix.PTRACE_SYSCALL_INFO_EXIT:
		strike, err = t.leaves(tid, th, info)
	}
	if err != nil {
		return 0, err
	}

	if strike.kill {
		if err := unix.Kill(t.leader, unix.SIGKILL); err != nil {
			return 0, fmt.Errorf("kill the program: %w", err)
		}
	}
	return 0, nil
}

// enters records a call that a thread is about to make, and makes the thread skip the call
// if a fault is to strike before it.
func (t *tracing) enters(tid int, th *thread, info *ptraceInfo) (strike fault, err error) {
	if isLocal[uintptr(info.nr())] {
		return fault{}, nil
	}
	c := describe(t.base, t.leader, tid, info.nr(), info.args())
	if c.object == "anon_inode:[eventfd]" {
		return fault{}, nil // the Go runtime's, to wake its own threads
	}

	t.seen[c]++
	c.n = t.seen[c]
	th.current = len(t.calls)
	if t.calls = append(t.calls, c); len(t.calls) == endless {
		unix.Kill(t.leader, unix.SIGKILL)
	}
	t.result = append(t.result, 0)

	strike = t.at(c, before, 0)
	if strike != (fault{}) {
		if err := skipCall(tid); err != nil && err != unix.ESRCH {
			return fault{}, fmt.Errorf("skip a system call: %w", err)
		}
	}
	th.fail = strike.fail
	return strike, nil
}

// leaves records what a thread's call has returned, and makes the call return an error if
// it is to fail.
func (t *tracing) leaves(tid int, th *thread, info *ptraceInfo) (strike fault, err error) {
	if th.current < 0 {
		return fault{}, nil
	}

	c := t.calls[th.current]
	if th.fail == 0 {
		if rval := info.rval(); rval < 0 && rval > -4096 {
			t.result[th.current] = unix.Errno(-rval)
		}
		strike = t.at(c, after, t.result[th.current])
		th.fail = strike.fail
	}

	if th.fail != 0 {
		t.result[th.current] = th.fail
		if err := setResult(tid, th.fail); err != nil && err != unix.ESRCH {
			return fault{}, fmt.Errorf("fail a system call: %w", err)
		}
	}
	th.current, th.fail = -1, 0
	return strike, nil
}

func waitFor(pid, options int) (status unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(pid, &status, options, nil)
		if err != unix.EINTR {
			return status, err
		}
	}
}

// nextStop waits until a thread of the program stops, or all of the program has ended.
func nextStop(leader int) (tid int, status unix.WaitStatus, err error) {
	for {
		tid, err = unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if err != nil && err != unix.EINTR {
			return 0, 0, err
		}
		if err == nil && (status.Stopped() || tid == leader) {
			return tid, status, nil
		}
	}
}

// standardFiles returns a pipe that holds the input, two files for the output, and a function
// that reads and closes these two.
func standardFiles(stdin string) (files []*os.File, collect func() (stdout, stderr string, err error), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	if _, err := w.WriteString(stdin); err != nil { // less than a pipe holds
		return nil, nil, err
	}
	w.Close()

	files = []*os.File{r}
	for _, name := range []string{"stdout", "stderr"} {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}

	return files, func() (stdout, stderr string, err error) {
		for i, text := range []*string{&stdout, &stderr} {
			content, readErr := io.ReadAll(io.NewSectionReader(files[i+1], 0, 1<<20))
			if readErr != nil {
				err = readErr
			}
			*text = string(content)
			files[i+1].Close()
		}
		return stdout, stderr, err
	}, nil
}

// ptraceInfo is struct ptrace_syscall_info of linux/ptrace.h, for an entry and an
// exit.
type ptraceInfo struct {
	op      uint8
	_       [3]uint8
	arch    uint32
	ip, sp  uint64
	content [8]uint64
}

func (i *ptraceInfo) nr() uint64     { return i.content[0] }
func (i *ptraceInfo) args() []uint64 { return i.content[1:7] }
func (i *ptraceInfo) rval() int64    { return int64(i.content[0]) }

func syscallInfo(tid int) (*ptraceInfo, error) {
	var info ptraceInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return &info, nil
}

// isLocal has the system calls that touch nothing outside the process and need no space in a
// file system. They are about memory, threads, signals, clocks, polling and flags of
// descriptors. All others, including unknown ones, are points.
var isLocal = func() map[uintptr]bool {
	local := map[uintptr]bool{}
	for _, nr := range append([]uintptr{
		unix.SYS_BRK, unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MINCORE,
		unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_FUTEX, unix.SYS_SCHED_YIELD,
		unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_PRCTL, unix.SYS_MEMBARRIER,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL,
		unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_RESTART_SYSCALL,
		unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETRANDOM, unix.SYS_UNAME,
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
		unix.SYS_GETRLIMIT, unix.SYS_PRLIMIT64, unix.SYS_UMASK, unix.SYS_FCNTL,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
		unix.SYS_PREAD64, // the Go runtime reads its CPU quota from time to time
	}, localHere...) {
		local[nr] = true
	}
	return local
}()

// Where a system call has its object.
const (
	ofDescriptor = iota // argument 0 is a descriptor
	ofPathAt            // arguments 0 and 1 are a directory and a path
	ofTwoPathsAt        // arguments 0 and 1, and 2 and 3, are each a directory and a path
	ofNothing
	ofDomain // of a socket
)

var known = map[uint64]struct {
	name   string
	object int
}{
	unix.SYS_READ: {"read", ofDescriptor}, unix.SYS_WRITE: {"write", ofDescriptor}, unix.SYS_CLOSE: {"close", ofDescriptor},
	unix.SYS_PWRITEV: {"pwritev", ofDescriptor}, unix.SYS_KILL: {"kill", ofNothing},
	unix.SYS_FSTAT: {"fstat", ofDescriptor}, unix.SYS_FSTATFS: {"fstatfs", ofDescriptor}, unix.SYS_GETDENTS64: {"getdents64", ofDescriptor},
	unix.SYS_LSEEK: {"lseek", ofDescriptor}, unix.SYS_FTRUNCATE: {"ftruncate", ofDescriptor}, unix.SYS_IOCTL: {"ioctl", ofDescriptor},
	unix.SYS_FCHOWN: {"fchown", ofDescriptor}, unix.SYS_FCHMOD: {"fchmod", ofDescriptor}, unix.SYS_FLOCK: {"flock", ofDescriptor},
	unix.SYS_FSYNC: {"fsync", ofDescriptor}, unix.SYS_FDATASYNC: {"fdatasync", ofDescriptor},
	unix.SYS_OPENAT: {"openat", ofPathAt}, unix.SYS_OPENAT2: {"openat2", ofPathAt}, unix.SYS_MKDIRAT: {"mkdirat", ofPathAt},
	unix.SYS_UNLINKAT: {"unlinkat", ofPathAt}, unix.SYS_NEWFSTATAT: {"newfstatat", ofPathAt}, unix.SYS_STATX: {"statx", ofPathAt},
	unix.SYS_READLINKAT: {"readlinkat", ofPathAt}, unix.SYS_UTIMENSAT: {"utimensat", ofPathAt}, unix.SYS_FACCESSAT: {"faccessat", ofPathAt},
	unix.SYS_FACCESSAT2: {"faccessat2", ofPathAt}, unix.SYS_FCHMODAT: {"fchmodat", ofPathAt}, unix.SYS_FCHOWNAT: {"fchownat", ofPathAt},
	unix.SYS_MOUNT_SETATTR: {"mount_setattr", ofPathAt}, unix.SYS_OPEN_TREE: {"open_tree", ofPathAt},
	unix.SYS_RENAMEAT: {"renameat", ofTwoPathsAt}, unix.SYS_RENAMEAT2: {"renameat2", ofTwoPathsAt}, unix.SYS_LINKAT: {"linkat", ofTwoPathsAt},
	unix.SYS_MOVE_MOUNT: {"move_mount", ofTwoPathsAt},
	unix.SYS_FSOPEN:     {"fsopen", ofNothing}, unix.SYS_FSCONFIG: {"fsconfig", ofDescriptor}, unix.SYS_FSMOUNT: {"fsmount", ofDescriptor},
	unix.SYS_SETNS: {"setns", ofDescriptor}, unix.SYS_UNSHARE: {"unshare", ofNothing}, unix.SYS_PIDFD_OPEN: {"pidfd_open", ofNothing},
	unix.SYS_SOCKET: {"socket", ofDomain}, unix.SYS_BIND: {"bind", ofDescriptor}, unix.SYS_LISTEN: {"listen", ofDescriptor},
	unix.SYS_SETSOCKOPT: {"setsockopt", ofDescriptor}, unix.SYS_SENDMSG: {"sendmsg", ofDescriptor}, unix.SYS_RECVFROM: {"recvfrom", ofDescriptor},
	unix.SYS_CONNECT: {"connect", ofDescriptor}, unix.SYS_SENDTO: {"sendto", ofDescriptor},
}

// describe names a call and its object so that the names are the same in every run.
func describe(base string, leader, tid int, nr uint64, args []uint64) call {
	k, ok := known[nr]
	if !ok {
		return call{name: fmt.Sprintf("system call %d", nr)}
	}

	clean := func(s string) string {
		s = strings.ReplaceAll(strings.ReplaceAll(s, base+"/", ""), base, ".")
		return strings.ReplaceAll(s, fmt.Sprintf("/proc/%d/", leader), "/proc/self/")
	}

	descriptor := func(fd uint64) string {
		if int32(fd) == unix.AT_FDCWD {
			target, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
			return target
		}
		if fd <= 2 {
			return [...]string{"stdin", "stdout", "stderr"}[fd]
		}
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", leader, fd))
		if name, _, ok := strings.Cut(target, ":["); ok && name != "anon_inode" {
			return name // without the number of the socket or pipe
		}
		return target
	}

	at := func(fd, address uint64) string {
		path := readString(tid, uintptr(address))
		if !filepath.IsAbs(path) {
			path = filepath.Join(descriptor(fd), path)
		}
		return clean(path)
	}

	c := call{name: k.name}
	switch k.object {
	case ofDescriptor:
		c.object = clean(descriptor(args[0]))
	case ofPathAt:
		c.object = at(args[0], args[1])
	case ofDomain:
		c.object = fmt.Sprintf("domain %d, type %d", args[0], args[1]&0xf)
	case ofTwoPathsAt:
		c.object = at(args[0], args[1]) + " -> " + at(args[2], args[3])
	}

	if rest, ok := strings.CutPrefix(c.object, "/proc/self/fd/"); ok {
		var fd uint64
		fmt.Sscan(rest, &fd)
		c.object = clean(descriptor(fd))
	}

	c.object = aNumber.ReplaceAllString(c.object, "/<n>$1")
	c.object = aFingerprint.ReplaceAllString(c.object, "-<fingerprint>")
	return c
}

// aNumber matches a process, thread or descriptor in a path.
var aNumber = regexp.MustCompile(`/[0-9]+(/|$)`)

// aFingerprint matches the end of the name of a hook's record: the fingerprint of the
// token, which is another one in each run.
var aFingerprint = regexp.MustCompile(`-[0-9a-f]{8}$`)

// readString reads a C string of the program's.
func readString(tid int, address uintptr) string {
	var s []byte
	page := make([]byte, os.Getpagesize())
	for len(s) < unix.PathMax {
		part := page[:len(page)-int(address)%len(page)]
		local := []unix.Iovec{{Base: &part[0]}}
		local[0].SetLen(len(part))
		n, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: address, Len: len(part)}}, 0)
		if err != nil || n == 0 {
			break
		}
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(append(s, part[:end]...))
		}
		s = append(s, part[:n]...)
		address += uintptr(n)
	}
	return string(s)
}
