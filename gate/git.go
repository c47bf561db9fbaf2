// Runs git commands, each in a process group of its own, and limits their memory.

package gate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// How long git may go on after SIGTERM before it is killed. It first ends its children, which
	// takes a few milliseconds.
	termGrace = 50 * time.Millisecond
	// How long a git that may hold locks of refs may go on after SIGTERM. It first removes the
	// locks: a thousand take 20 ms. A ref whose lock is left behind never moves again.
	lockGrace = 10 * time.Second
	// How long git may go on after its client went away, to clean up by itself.
	goneGrace = time.Second
)

// starter starts processes on one thread that lives as long as the program. A process gets its
// parent-death signal when the thread that started it ends (prctl(2)), and Go may end any other
// thread at any time.
type starter chan func()

func newStarter() starter {
	s := make(starter)
	go func() {
		runtime.LockOSThread()
		for start := range s {
			start()
		}
	}()
	return s
}

func (s starter) start(cmd *exec.Cmd) (err error) {
	done := make(chan struct{})
	s <- func() {
		err = cmd.Start()
		close(done)
	}
	<-done
	return err
}

// AdoptOrphans makes this program the parent of its orphaned descendants (PR_SET_CHILD_SUBREAPER,
// prctl(2)). Otherwise process 1 would become their parent, and a request that is cut could not
// wait until they have ended. The gate waits only for git's orphans, so call AdoptOrphans only in a
// program that starts nothing but git.
func AdoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	return nil
}

// runner runs git with the environment that environment.go makes, and with limits.
type runner struct {
	program string // the path of git's program
	path    string // PATH
	memory  uint64 // how many bytes each process of git's may have
	maxPush int64
	starter starter
}

func newRunner(program, path string, memory, maxPush int64) *runner {
	return &runner{
		program: program, path: path, memory: memoryLimit(memory), maxPush: maxPush,
		starter: newStarter(),
	}
}

// command is a running git, with all processes that it has started, in a process group of its own.
type command struct {
	reads  bool
	in     io.WriteCloser // nil if git reads nothing
	out    io.ReadCloser
	errors tail // git's messages: on standard error, and those in its answer to the client

	cmd        *exec.Cmd
	mu         sync.Mutex
	over       bool // git was reaped: another process group may have its number by now
	killer     *time.Timer
	quarantine string // the name of a push's quarantine directory; empty if none was seen
}

// start starts git in a repository, for a caller, with no input. protocol is the version of git's
// protocol, "" for version 0.
func (r *runner) start(repo repository, who caller, protocol string, args ...string) (*command, error) {
	c := r.command(repo, who, protocol, args...)
	return c, c.start(r.starter, r.memory)
}

// startReading is start for a git that reads its input from c.in. If talk is not nil, it becomes
// git's descriptor 3.
func (r *runner) startReading(repo repository, who caller, protocol string, talk *os.File, args ...string) (*command, error) {
	c := r.command(repo, who, protocol, args...)
	if talk != nil {
		c.cmd.ExtraFiles = []*os.File{talk}
	}
	c.reads = true
	return c, c.start(r.starter, r.memory)
}

// socketPair makes two sockets that are connected with each other. Only ours is non-blocking, as
// Go's poller needs it.
func socketPair() (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "git's end of a socket")
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		theirs.Close()
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(pair[0]), "the gate's end of a socket"), theirs, nil
}

func (r *runner) command(repo repository, who caller, protocol string, args ...string) *command {
	c := &command{cmd: exec.Command(r.program, args...)}
	c.cmd.Dir = repo.path
	c.cmd.Env = environment(r.path, r.maxPush, repo, who, protocol)
	c.cmd.Stderr = &c.errors
	// Wait must return even if a process outlives the group and holds standard error open.
	c.cmd.WaitDelay = time.Second
	// If this program dies, git gets SIGTERM and ends its children. If git got SIGKILL instead, its
	// children would go on until they notice that git has ended.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return c
}

// start starts git, with sockets as its input and output.
//
// git reads 4 KiB of a pack at a time. A pipe would wake this program after each of these reads, and
// a socket does so when three quarters of its buffer are free (unix_writable in Linux'
// net/unix/af_unix.c). This makes a large push a fifth faster. As for git's output, one packet of
// it fills a pipe, and a socket holds several.
func (c *command) start(s starter, memory uint64) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return fmt.Errorf("make a socket for git's output: %w", err)
	}
	defer theirs.Close()
	c.out, c.cmd.Stdout = ours, theirs

	if c.reads {
		ours, theirs, err := socketPair()
		if err != nil {
			c.close()
			return fmt.Errorf("make a socket for git's input: %w", err)
		}
		defer theirs.Close()
		c.in, c.cmd.Stdin = ours, theirs
	}

	if err := s.start(c.cmd); err != nil {
		c.close()
		return fmt.Errorf("start git: %w", err)
	}

	if err := limitMemory(c.cmd.Process.Pid, memory); err != nil {
		c.cut()
		_ = c.wait()
		return err
	}
	return nil
}

// memoryLimit returns the smaller of the given limit and the gate's own, in bytes.
func memoryLimit(most int64) uint64 {
	own := unix.Rlimit{Max: unix.RLIM_INFINITY}
	_ = unix.Getrlimit(unix.RLIMIT_DATA, &own)
	return min(uint64(most), own.Max)
}

// limitMemory limits the memory of git, and of each process that it starts. Files that are mapped
// for reading do not count.
//
// When the limit is set, git is running already. If the gate set the limit before it starts git,
// the limit would also apply to the gate. A program that sets the limit and then executes git would
// take as long to begin as git does (0.6 to 2 ms). The limit still comes in time: git has been sent
// nothing yet, and takes a millisecond before it starts another program.
func limitMemory(pid int, most uint64) error {
	limit := unix.Rlimit{Cur: most, Max: most}
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &limit, nil); err != nil {
		return fmt.Errorf("limit git's memory: %w", err)
	}
	return nil
}

// close closes this program's ends of git's input and output. It ends a write that waits for git.
func (c *command) close() {
	c.out.Close()
	if c.in != nil {
		c.in.Close()
	}
}

// closeIn closes the command's standard input.
func (c *command) closeIn() {
	c.noteQuarantine()
	if c.in != nil {
		c.in.Close()
	}
}

// output returns what the command prints, 16 MiB at most. When ctx is done, it cuts the command.
func (c *command) output(ctx context.Context) ([]byte, error) {
	const most = 16 << 20
	stop := context.AfterFunc(ctx, c.cut)
	defer stop()

	text, err := io.ReadAll(io.LimitReader(c.out, most))
	c.out.Close()
	gitErr := c.wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case gitErr != nil:
		return nil, gitErr
	case err != nil:
		return nil, fmt.Errorf("read git's output: %w", err)
	}
	return text, nil
}

// lines calls do with each line that the command prints.
func (c *command) lines(do func(line string)) error {
	lines := bufio.NewScanner(c.out)
	for lines.Scan() {
		do(lines.Text())
	}
	c.out.Close()
	return errors.Join(lines.Err(), c.wait())
}

// leave tells a command that its client went away. The command may have little left to do, so
// it is cut only if it goes on for longer than goneGrace.
func (c *command) leave() {
	c.closeIn()
	c.after(goneGrace, c.cut)
}

// letGo closes input and output of a command whose client has gone, so that the command cleans up and
// ends. If it does not end, it is cut.
func (c *command) letGo() {
	c.out.Close()
	c.leave()
}

// noteQuarantine notes the quarantine directory of a push, since git may leave it behind. Only
// running processes of git show which directory it is.
func (c *command) noteQuarantine() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cmd.ExtraFiles) > 0 && !c.over && c.quarantine == "" {
		c.quarantine = quarantineOf(c.cmd.Process.Pid)
	}
}

// cut ends the command and all that it has started.
func (c *command) cut() {
	c.noteQuarantine()
	grace := termGrace
	if len(c.cmd.ExtraFiles) > 0 { // a push
		grace = lockGrace
	}
	c.signal(unix.SIGTERM)
	c.after(grace, func() { c.signal(unix.SIGKILL) })
}

func (c *command) after(grace time.Duration, do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killer != nil {
		c.killer.Stop()
	}
	if !c.over {
		c.killer = time.AfterFunc(grace, do)
	}
}

func (c *command) signal(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		_ = unix.Kill(-c.cmd.Process.Pid, s)
	}
}

// wait waits until the command has ended, kills the rest of its process group, and waits until that
// has ended, too. Call it when the command's output has ended. An error contains the end of the
// command's messages.
func (c *command) wait() error {
	// Until cmd.Wait below, the leader stays a zombie, so no other group gets this group's number.
	for unix.Waitid(unix.P_PID, c.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}

	c.signal(unix.SIGKILL)
	c.mu.Lock()
	c.over = true
	if c.killer != nil {
		c.killer.Stop()
	}
	c.mu.Unlock()

	err := c.cmd.Wait()
	c.close()

	// A killed process takes a moment to end. The leader's children are ours now: see AdoptOrphans.
	for end := time.Now().Add(goneGrace); time.Now().Before(end); {
		reaped, err := unix.Wait4(-c.cmd.Process.Pid, nil, unix.WNOHANG, nil)
		if err != nil && err != unix.EINTR {
			break // no process is left
		}
		if reaped == 0 {
			time.Sleep(time.Millisecond)
		}
	}

	if c.errors.shortOfMemory() {
		slog.Warn("git has too little memory: see --git-memory of terok-gate serve", "repository", c.cmd.Dir)
	}
	if text := c.errors.String(); err != nil && text != "" {
		err = fmt.Errorf("git: %w: %s", err, text)
	} else if err != nil {
		err = fmt.Errorf("git: %w", err)
	}
	return err
}

// tail keeps the end of what is written to it. A client may have chosen the text, so the text is
// quoted in the log, and is never part of an answer.
type tail struct {
	mu   sync.Mutex
	kept []byte
	cut  bool
}

const tailLength = 1000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-tailLength):]...)
	if excess := len(t.kept) - tailLength; excess > 0 {
		t.kept, t.cut = t.kept[excess:], true
	}
	return len(p), nil
}

// shortOfMemory reports whether git said that it needs more memory than it may have. Only the
// wording of git's messages shows that.
func (t *tail) shortOfMemory() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := bytes.ToLower(t.kept)
	for _, words := range []string{"out of memory", "cannot allocate memory", "unable to create thread"} {
		if bytes.Contains(said, []byte(words)) {
			return true
		}
	}
	return false
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.kept) == 0:
		return ""
	case t.cut:
		return "..." + strconv.Quote(string(t.kept))
	}
	return strconv.Quote(string(t.kept))
}
