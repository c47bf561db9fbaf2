package store_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// A verdict is what Life returns for a process, and what a sweep does with its token.
const (
	alive   = "alive, token kept"
	dead    = "dead, token swept"
	unknown = "unknown, token kept"
)

// judged returns the verdict on a process. Sweep, Issue and RevokeContainer must agree on what
// becomes of its token.
func judged(p *store.Process) (string, error) {
	dir, err := os.MkdirTemp("", "judged")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)

	grant := store.Grant{Project: "demo", Task: "1"}
	fates := map[string]bool{}
	for i, sweep := range []func(f store.File) ([]store.Entry, error){
		store.File.Sweep,
		func(f store.File) ([]store.Entry, error) { return revokeContainer(f, "another") },
		func(f store.File) ([]store.Entry, error) {
			return f.Issue(store.Entry{Token: tokenNamed("b"), Grant: grant, Container: "another"})
		},
	} {
		f := store.File{Path: filepath.Join(dir, fmt.Sprint(i), "tokens.json")}
		if err := f.Put(store.Entry{Token: tokenNamed("a"), Grant: grant, Container: "c1", Process: p}); err != nil {
			return "", err
		}

		revoked, err := sweep(f)
		if err != nil {
			return "", err
		}
		if len(revoked) > 0 {
			fates["swept"] = true
		} else {
			fates["kept"] = true
		}
	}

	if len(fates) != 1 {
		return "", errors.New("one sweep takes the token, another keeps it")
	}
	for fate := range fates {
		return fmt.Sprintf("%v, token %s", p.Life(), fate), nil
	}
	panic("unreachable")
}

// judgeHelper reads processes and prints what judged returns for them, as JSON.
func judgeHelper([]string) error {
	var processes []*store.Process
	if err := json.NewDecoder(os.Stdin).Decode(&processes); err != nil {
		return err
	}
	var verdicts []string
	for _, p := range processes {
		verdict, err := judged(p)
		if err != nil {
			return err
		}
		verdicts = append(verdicts, verdict)
	}
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}

// judgedBy runs the command, which is a judge helper, on the processes.
func judgedBy(t *testing.T, cmd *exec.Cmd, processes ...*store.Process) []string {
	t.Helper()
	in, err := json.Marshal(processes)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = bytes.NewReader(in)
	var verdicts []string
	if err := json.Unmarshal(output(t, cmd), &verdicts); err != nil {
		t.Fatal(err)
	}
	return verdicts
}

func wantVerdict(t *testing.T, p *store.Process, want string) {
	t.Helper()
	got, err := judged(p)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func wantVerdicts(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}

func describe(t *testing.T, pid int) *store.Process {
	t.Helper()
	process, err := store.ProcessOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	return process
}

// needMachineID ends the test if the machine has no id: without one, another boot of this
// machine cannot be told from another machine.
func needMachineID(t *testing.T) {
	t.Helper()
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(bytes.TrimSpace(id)) != 32 {
		testenv.Cannot(t, "needs a machine id: systemd-machine-id-setup makes one")
	}
}

// living returns a process that lives as long as the test.
func living(t *testing.T) *store.Process {
	t.Helper()
	cmd := helper(t, "wait")
	start(t, cmd)
	return describe(t, cmd.Process.Pid)
}

// ended returns a process that has ended and was collected.
func ended(t *testing.T) *store.Process {
	t.Helper()
	cmd := helper(t, "wait")
	end := start(t, cmd)
	process := describe(t, cmd.Process.Pid)
	end()
	return process
}

// ofAnotherBoot returns a process as it was recorded before a reboot.
func ofAnotherBoot(t *testing.T) *store.Process {
	t.Helper()
	process := describe(t, os.Getpid())
	process.Boot = "4f63a9b4-4d69-4f2a-9d0c-7d3c1d0f8a11"
	return process
}

func state(t *testing.T, pid int) string {
	t.Helper()
	stat := contentOf(t, fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])[0]
}

func TestARunningProcessIsAlive(t *testing.T) {
	wantVerdict(t, living(t), alive)
	wantVerdict(t, describe(t, os.Getpid()), alive)
}

func TestAStoppedProcessIsAlive(t *testing.T) {
	cmd := helper(t, "wait")
	end := start(t, cmd)
	process := describe(t, cmd.Process.Pid)
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(cmd.Process.Pid, nil, unix.WUNTRACED, nil); err != nil { // returns when the process has stopped
		t.Fatal(err)
	}
	if got := state(t, cmd.Process.Pid); got != "T" {
		t.Fatalf("the process is in state %s, not T", got)
	}
	wantVerdict(t, process, alive)
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	end()
}

func TestAProcessThatEndedIsDead(t *testing.T) {
	wantVerdict(t, ended(t), dead)
}

func TestAZombieIsDead(t *testing.T) {
	cmd := helper(t, "wait")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}

	pid := cmd.Process.Pid
	process := describe(t, pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil { // not collected
		t.Fatal(err)
	}

	if got := state(t, pid); got != "Z" {
		t.Fatalf("the process is in state %s, not Z", got)
	}
	wantVerdict(t, process, dead)

	if err := cmd.Wait(); err == nil {
		t.Error("the killed process ended well")
	}
	wantVerdict(t, process, dead)
}

func TestAProcessWhoseLeaderEndedLivesOnInItsOtherThreads(t *testing.T) {
	cmd := helper(t, "leaderless")
	end := start(t, cmd)
	process := describe(t, cmd.Process.Pid)
	testenv.Eventually(t, "the leader has ended", func() bool { return state(t, cmd.Process.Pid) == "Z" })
	wantVerdict(t, process, alive)
	end()
	wantVerdict(t, process, dead)
}

// leaderlessHelper ends its first thread, and lives on until its input ends.
func leaderlessHelper([]string) error {
	if unix.Gettid() != unix.Getpid() {
		return errors.New("not on the first thread")
	}
	go func() {
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}()
	_, _, errno := unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // of this thread only
	return errno
}

func TestWhichPartsOfADescriptionAProcessIsJudgedBy(t *testing.T) {
	needMachineID(t)
	running, over := living(t), ended(t)
	if running.Inode == 0 {
		testenv.Cannot(t, "needs pidfs: Linux 6.9")
	}

	for _, row := range []struct {
		name    string
		edit    func(p *store.Process)
		running string
		over    string
	}{
		{"as it was recorded", func(p *store.Process) {}, alive, dead},
		{"another inode: the pid was used again", func(p *store.Process) { p.Inode++ }, dead, dead},
		{"no inode, another start time: the pid was used again", func(p *store.Process) { p.Inode = 0; p.Start++ }, dead, dead},
		{"no inode, an earlier start time", func(p *store.Process) { p.Inode = 0; p.Start-- }, dead, dead},
		{"no inode, no start time", func(p *store.Process) { p.Inode = 0; p.Start = 0 }, dead, dead},
		{"no inode, as before Linux 6.9", func(p *store.Process) { p.Inode = 0 }, alive, dead},
		{"another boot", func(p *store.Process) { p.Boot = "4f63a9b4-4d69-4f2a-9d0c-7d3c1d0f8a11" }, dead, dead},
		{"no boot", func(p *store.Process) { p.Boot = "" }, unknown, unknown},
		{"the id of another machine, although the boot proves that the process is on this one", func(p *store.Process) { p.Machine = strings.Repeat("0", 32) }, alive, dead},
		{"no machine id, although the boot proves that the process is on this machine", func(p *store.Process) { p.Machine = "" }, alive, dead},
		{"another machine's boot", func(p *store.Process) { p.Machine, p.Boot = strings.Repeat("0", 32), "x" }, unknown, unknown},
		{"no machine, another boot", func(p *store.Process) { p.Machine, p.Boot = "", "x" }, unknown, unknown},
		{"another pid namespace", func(p *store.Process) { p.PIDNS = "pid:[1]" }, unknown, unknown},
		{"no pid namespace", func(p *store.Process) { p.PIDNS = "" }, unknown, unknown},
		{"another pid namespace, another boot", func(p *store.Process) { p.PIDNS, p.Boot = "pid:[1]", "x" }, dead, dead},
		{"another time namespace", func(p *store.Process) { p.TimeNS = "time:[1]" }, unknown, unknown},
		{"no time namespace, on a kernel that has them", func(p *store.Process) { p.TimeNS = "" }, unknown, unknown},
		{"pid 0", func(p *store.Process) { p.PID = 0 }, unknown, unknown},
		{"pid -1", func(p *store.Process) { p.PID = -1 }, unknown, unknown},
		{"a negative pid", func(p *store.Process) { p.PID = -p.PID }, unknown, unknown},
		{"an empty description", func(p *store.Process) { *p = store.Process{} }, unknown, unknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := *running, *over
			row.edit(&a)
			row.edit(&b)

			t.Run("of a running process", func(t *testing.T) { wantVerdict(t, &a, row.running) })
			t.Run("of one that ended", func(t *testing.T) { wantVerdict(t, &b, row.over) })
		})
	}
	t.Run("no process", func(t *testing.T) { wantVerdict(t, nil, unknown) })
}

func TestAPidThatIsGoneCannotBeDescribed(t *testing.T) {
	for _, pid := range []int{ended(t).PID, 0, -1} {
		if process, err := store.ProcessOf(pid); err == nil {
			t.Errorf("ProcessOf(%d) = %+v", pid, process)
		} else {
			wantError(t, err, fmt.Sprintf("process %d", pid))
		}
	}
}

// ownPIDs reports whether this process has a pid namespace of its own, and mounts the /proc that
// belongs to that namespace. If this process has none, ownPIDs runs the test again in one that has.
func ownPIDs(t *testing.T) bool {
	t.Helper()
	testenv.NeedRoot(t)
	if !inside(t, privatePIDs) {
		return false
	}
	mount(t, "proc", "/proc", "proc", 0, "")
	return true
}

// nextPID makes the kernel assign this pid next.
func nextPID(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid-1), 0); err != nil {
		testenv.Cannot(t, "cannot choose pids: %v", err)
	}
}

// endedBefore returns a process that has ended and whose start time is in the past. A start time
// counts ticks of 10 ms, and a process that starts after this call must have another start time.
func endedBefore(t *testing.T) *store.Process {
	t.Helper()
	process := ended(t)
	testenv.Eventually(t, "the next tick has begun", func() bool {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			t.Fatal(err)
		}
		return uint64(now.Nano()/10_000_000) > process.Start
	})
	return process
}

func TestAReusedPidIsNoSignOfLife(t *testing.T) {
	if !ownPIDs(t) {
		return
	}
	var first, second *store.Process
	testenv.Eventually(t, "another process has the pid", func() bool { // a thread of ours may get it
		first = endedBefore(t)
		nextPID(t, first.PID)
		cmd := helper(t, "wait")
		start(t, cmd)
		second = describe(t, cmd.Process.Pid)
		return second.PID == first.PID
	})
	wantVerdict(t, first, dead)
	wantVerdict(t, second, alive)
}

func TestAPidThatBecameAThreadIsNoSignOfLife(t *testing.T) {
	if !ownPIDs(t) {
		return
	}
	var first *store.Process
	testenv.Eventually(t, "a thread has the pid", func() bool { // the Go runtime starts one when it likes
		first = endedBefore(t)
		nextPID(t, first.PID)
		t.Cleanup(threads(5))
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", first.PID))
		return err == nil
	})
	wantVerdict(t, first, dead)
}

// threads starts some threads, and returns a function that ends them.
func threads(n int) (end func()) {
	done := make(chan struct{})
	var running, all sync.WaitGroup
	running.Add(n)
	for range n {
		all.Go(func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			running.Done()
			<-done
		})
	}
	running.Wait()
	return func() {
		close(done)
		all.Wait()
	}
}

func TestProcessesBeforeARebootAreDead(t *testing.T) {
	testenv.NeedRoot(t)
	needMachineID(t)
	if !inside(t, privateMounts) {
		return
	}
	running, over := living(t), ended(t)
	bootID := filepath.Join(t.TempDir(), "boot_id")
	write(t, bootID, "4f63a9b4-4d69-4f2a-9d0c-7d3c1d0f8a11\n")
	mount(t, bootID, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
	wantVerdicts(t, judgedBy(t, helper(t, "judge"), running, over), dead, dead)
}

func TestTheMachineIsNeededOnlyToTellAnotherBootFromAnotherMachine(t *testing.T) {
	for _, row := range []struct {
		name, id string
		of       string // the verdict on a process of another boot
	}{
		{"this machine", "this", dead},
		{"another machine", strings.Repeat("0", 31) + "1\n", unknown},
		{"no id", "", unknown},
		{"an empty id", "\n", unknown},
		{"the first boot of systemd", "uninitialized\n", unknown},
		{"an id cut short", strings.Repeat("0", 31) + "\n", unknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			testenv.NeedRoot(t)
			needMachineID(t)
			if !inside(t, privateMounts) {
				return
			}

			running, over, before := living(t), ended(t), ofAnotherBoot(t)
			noMachine, noMachineBefore := *running, *before
			noMachine.Machine, noMachineBefore.Machine = "", ""

			if row.id == "this" {
				row.id = contentOf(t, "/etc/machine-id")
			}
			mount(t, "tmpfs", "/etc", "tmpfs", 0, "")
			if row.id != "" {
				write(t, "/etc/machine-id", row.id)
			}

			wantVerdicts(t, judgedBy(t, helper(t, "judge"), running, over, &noMachine, before, &noMachineBefore),
				alive, dead, alive, row.of, unknown)
		})
	}
}

func TestATokenIsSweptWithinTheBootOnAMachineWithoutAnID(t *testing.T) {
	testenv.NeedRoot(t)
	if !inside(t, privateMounts) {
		return
	}
	mount(t, "tmpfs", "/etc", "tmpfs", 0, "")
	cmd := helper(t, "describe")
	process, end := described(t, cmd)
	if process.Machine != "" {
		t.Fatalf("the machine is %q", process.Machine)
	}
	wantVerdict(t, process, alive)
	end()
	wantVerdict(t, process, dead)
}

func TestProcessesAreNotJudgedFromAnotherPidNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name string
		env  []string
	}{
		{"with a /proc of its own", []string{procVar + "="}},
		{"with the /proc of our pid namespace", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			judge := helper(t, "judge")
			judge.Env = append(judge.Env, row.env...)
			judge.SysProcAttr = &privatePIDs
			wantVerdicts(t, judgedBy(t, judge, living(t), ended(t)), unknown, unknown)
		})
	}
}

// described starts a helper that describes itself, and returns the description.
func described(t *testing.T, cmd *exec.Cmd) (process *store.Process, end func()) {
	t.Helper()
	read, written, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout = written
	end = start(t, cmd)
	written.Close()
	line, err := bufio.NewReader(read).ReadBytes('\n')
	if err != nil {
		end()
		t.Fatalf("%v: no description: %v", cmd.Args, err)
	}
	if err := json.Unmarshal(line, &process); err != nil {
		t.Fatal(err)
	}
	return process, end
}

func TestProcessesInAnotherPidNamespaceAreNotJudged(t *testing.T) {
	testenv.NeedRoot(t)
	cmd := helper(t, "describe")
	cmd.Env = append(cmd.Env, procVar+"=")
	cmd.SysProcAttr = &privatePIDs
	process, end := described(t, cmd)
	if process.PID != 1 {
		t.Fatalf("its pid is %d, not 1", process.PID)
	}
	wantVerdict(t, process, unknown)
	end()
	wantVerdict(t, process, unknown)
}

// In the /proc of another pid namespace, the pid belongs to another process. Its start time
// would look like a proof of death.
func TestAProcessIsNotDescribedByTheProcOfAnotherPidNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	if !inside(t, privatePIDs) {
		return
	}
	cmd := helper(t, "wait")
	start(t, cmd)
	process, err := store.ProcessOf(cmd.Process.Pid)
	wantError(t, err, "/proc")
	if err == nil {
		judge := helper(t, "judge")
		judge.Env = append(judge.Env, procVar+"=")
		judge.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		t.Errorf("with the right /proc the living process is %v", judgedBy(t, judge, process))
	}
}

func TestProcessesAreNotJudgedByTheProcOfAnotherPidNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	other := helper(t, "describe")
	other.Env = append(other.Env, procVar+"=")
	other.SysProcAttr = &privatePIDs
	described(t, other) // by now its /proc is mounted
	judge := under(t, helper(t, "judge"), "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", other.Process.Pid))
	wantVerdicts(t, judgedBy(t, judge, living(t), ended(t)), unknown, unknown)
}

func TestProcessesAreNotJudgedFromAnotherTimeNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	inTime := func(cmd *exec.Cmd) *exec.Cmd {
		if _, err := os.Stat("/proc/self/ns/time"); err != nil {
			testenv.Cannot(t, "needs a kernel with time namespaces: %v", err)
		}
		return under(t, cmd, "unshare", "--time", "--boottime", "100000")
	}
	running, over := living(t), ended(t)
	wantVerdicts(t, judgedBy(t, inTime(helper(t, "judge")), running, over), unknown, unknown)

	process, end := described(t, inTime(helper(t, "describe")))
	if there, here := process.Start, describe(t, process.PID).Start; there < here+100000 {
		t.Fatalf("its start time reads %d there and %d here: the time namespace shifts no clock", there, here)
	}
	wantVerdict(t, process, unknown)
	end()
	wantVerdict(t, process, unknown)
}

func TestAHiddenProcessIsNotTakenForDead(t *testing.T) {
	testenv.NeedRoot(t)
	running, over := living(t), ended(t)
	byStart := *running // as recorded before Linux 6.9: its start time must be read
	byStart.Inode = 0
	for _, row := range []struct {
		name, options, uid string
		of                 string // the verdict on byStart
	}{
		{"by no option", "", "65534", alive},
		{"by hidepid=1", "hidepid=1", "65534", unknown},
		{"by hidepid=2", "hidepid=2", "65534", unknown},
		{"by hidepid=4", "hidepid=4", "65534", unknown},
		{"by hidepid=2, but not from root", "hidepid=2", "0", alive},
		{"by subset=pid", "subset=pid", "0", unknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			judge := helper(t, "judge")
			judge.Env = append(judge.Env, procVar+"="+row.options, uidVar+"="+row.uid)
			judge.SysProcAttr = &privateMounts
			ofInode, ofEnded := alive, dead // no /proc is needed
			if row.options == "subset=pid" {
				ofInode, ofEnded = unknown, unknown // the id of the boot cannot be read
			}
			wantVerdicts(t, judgedBy(t, judge, &byStart, running, over), row.of, ofInode, ofEnded)
		})
	}
}

func TestAProcessThatCannotBeOpenedIsNotTakenForDead(t *testing.T) {
	running := living(t)
	another := *running
	another.Start++
	for _, errno := range []string{"EPERM", "ENOSYS", "EMFILE", "ENOMEM"} {
		judge := under(t, helper(t, "judge"), "strace", "-f", "-o", "/dev/null",
			"-e", "trace=pidfd_open", "-e", "inject=pidfd_open:error="+errno)
		got := judgedBy(t, judge, running, &another)
		if !slices.Equal(got, []string{unknown, dead}) {
			t.Errorf("%s: %v, want %v", errno, got, []string{unknown, dead})
		}
	}
}
