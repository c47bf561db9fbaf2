package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// pinned starts a process and pins it; end ends the process.
func pinned(t *testing.T) (p *store.Pinned, end func()) {
	t.Helper()
	cmd := helper(t, "wait")
	end = start(t, cmd)
	p, err := store.Pin(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, end
}

// wantEnded checks that a pinned process counts as ended, and that nothing can be read of it.
func wantEnded(t *testing.T, p *store.Pinned) {
	t.Helper()
	if over, err := p.Ended(); !over || err != nil {
		t.Errorf("Ended returns %t, %v, although the process has ended", over, err)
	}
	if stat, err := p.Read("stat"); err == nil {
		t.Errorf("its stat is %q", stat)
	}
	if namespace, err := p.Link("ns/mnt"); err == nil {
		t.Errorf("its mount namespace is %s", namespace)
	}
}

func TestAPinnedProcessIsReadUntilItEnds(t *testing.T) {
	p, end := pinned(t)
	stat, err := p.Read("stat")
	if want := strconv.Itoa(p.Process.PID) + " "; err != nil || !strings.HasPrefix(string(stat), want) {
		t.Errorf("its stat is %q, %v", stat, err)
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if namespace, err := p.Link("ns/mnt"); err != nil || namespace != ours {
		t.Errorf("its mount namespace is %q, %v, and not %s", namespace, err, ours)
	}
	if over, err := p.Ended(); over || err != nil {
		t.Errorf("Ended returns %t, %v, although the process lives", over, err)
	}

	end()
	wantEnded(t, p)
}

func TestAPinnedProcessIsNotTheNextOneWithItsPid(t *testing.T) {
	if !ownPIDs(t) {
		return
	}

	var first *store.Pinned
	testenv.Eventually(t, "another process has the pid", func() bool { // a thread of ours may get it
		var end func()
		first, end = pinned(t)
		end()
		nextPID(t, first.Process.PID)
		cmd := helper(t, "wait")
		start(t, cmd)
		return cmd.Process.Pid == first.Process.PID
	})
	wantEnded(t, first)

	f := tokenFile(t)
	_, err := f.IssueTo(first, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
	if !errors.Is(err, store.ErrEnded) {
		t.Errorf("IssueTo returns %v for a process that has ended", err)
	}
	wantNames(t, f, "tokens.json.lock")
}

func TestATokenIsIssuedToALivingProcessOnly(t *testing.T) {
	f := withOneToken(t)
	p, end := pinned(t)
	entry := store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c7"}
	if _, err := f.IssueTo(p, entry); err != nil {
		t.Fatal(err)
	}
	entries, err := f.Entries()
	if err != nil || len(entries) == 0 {
		t.Fatalf("entries %v, error %v", entries, err)
	}
	if last := entries[len(entries)-1]; last.Token != entry.Token || last.Process == nil || *last.Process != p.Process {
		t.Errorf("the last entry is %+v", last)
	}

	end()
	check := untouched(t, f.Path)
	if _, err := f.IssueTo(p, entry); !errors.Is(err, store.ErrEnded) {
		t.Errorf("issued to a process that has ended: %v", err)
	}
	check(t)
}

func TestADescribedProcessIsPinnedWhileItLives(t *testing.T) {
	running, over, elsewhere := living(t), ended(t), *living(t)
	elsewhere.PIDNS = "pid:[1]"
	if p, err := running.Pin(); err != nil || p.Process != *running {
		t.Errorf("a living one: %v", err)
	} else {
		p.Close()
	}
	if _, err := over.Pin(); !errors.Is(err, store.ErrEnded) {
		t.Errorf("one that has ended: %v", err)
	}
	if _, err := elsewhere.Pin(); !errors.Is(err, store.ErrUnseen) {
		t.Errorf("one of another pid namespace: %v", err)
	}
	reused := *running
	reused.Inode, reused.Start = 0, reused.Start-1
	if _, err := reused.Pin(); !errors.Is(err, store.ErrEnded) {
		t.Errorf("one whose pid was used again: %v", err)
	}
}

// Without the boot's id, a process can never be proved dead, and without the pid namespace, only
// after a reboot.
func TestAProcessIsNotDescribedInPart(t *testing.T) {
	for _, row := range []struct{ name, hide, want string }{
		{"without the boot's id", "/proc/sys/kernel/random", "boot"},
		{"without the pid namespace", "/proc/self/ns", "namespace"},
	} {
		t.Run(row.name, func(t *testing.T) {
			testenv.NeedRoot(t)
			if !inside(t, privateMounts) {
				return
			}
			mount(t, "tmpfs", row.hide, "tmpfs", 0, "")
			process, err := store.ProcessOf(os.Getpid())
			if err == nil {
				t.Fatalf("the process is %+v", process)
			}
			wantError(t, err, fmt.Sprintf("describe process %d", os.Getpid()), row.want)
		})
	}
}

// deathHelper calls OnDeath for the process args[0], and prints the error. Before that, it makes the
// Go runtime call epoll_ctl(2) at least twice on this thread: strace counts each thread's calls,
// and lets the first one succeed.
func deathHelper(args []string) error {
	runtime.LockOSThread()
	if _, _, err := os.Pipe(); err != nil {
		return err
	}

	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	process, err := store.ProcessOf(pid)
	if err != nil {
		return err
	}
	_, err = process.OnDeath(func() {})
	fmt.Printf("%v", err)
	return nil
}

// epoll(7) has a limit for each user, fs.epoll.max_user_watches.
func TestOnDeathFailsWhereEpollHasNoWatchLeft(t *testing.T) {
	pid := living(t).PID
	const fail = "inject=epoll_ctl:error=ENOSPC:when=2+" // the first is the Go runtime's own
	cmd := under(t, helper(t, "death", strconv.Itoa(pid)), "strace", "-f", "-o", "/dev/null", "-e", "trace=epoll_ctl", "-e", fail)
	if got := string(output(t, cmd)); !strings.Contains(got, fmt.Sprintf("wait for the end of process %d", pid)) {
		t.Errorf("the error is %q", got)
	}
}

func TestOnDeathCallsOnceWhenTheProcessEnds(t *testing.T) {
	calls := make(chan string, 10)
	note := func(what string) func() { return func() { calls <- what } }

	cmd := helper(t, "wait")
	end := start(t, cmd)
	process := describe(t, cmd.Process.Pid)
	if _, err := process.OnDeath(note("watched")); err != nil {
		t.Fatal(err)
	}
	forget, err := process.OnDeath(note("forgotten"))
	if err != nil {
		t.Fatal(err)
	}
	forget()
	end()
	if got := <-calls; got != "watched" {
		t.Errorf("%s is called", got)
	}

	if _, err := process.OnDeath(note("dead before")); err != nil || len(calls) != 1 {
		t.Fatalf("of a dead process: %d calls, error %v", len(calls), err)
	}
	if got := <-calls; got != "dead before" {
		t.Errorf("%s is called", got)
	}

	var none *store.Process
	elsewhere := *process
	elsewhere.Machine, elsewhere.Boot = strings.Repeat("0", 32), "x"
	for _, p := range []*store.Process{none, &elsewhere} {
		forget, err := p.OnDeath(note("unseen"))
		if !errors.Is(err, store.ErrUnseen) {
			t.Errorf("of %+v: %v", p, err)
		}
		forget()
	}
	if len(calls) != 0 {
		t.Errorf("%s is called", <-calls)
	}
}

func TestOnDeathHoldsNoDescriptorAfterTheDeath(t *testing.T) {
	pidfds := func() (n int) {
		for name := range namesIn(t, "/proc/self/fd") {
			if target, _ := os.Readlink("/proc/self/fd/" + name); strings.Contains(target, "pidfd") {
				n++
			}
		}
		return n
	}

	cmd := exec.Command(testenv.Tool(t, "sleep"), "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	before := pidfds()
	died := make(chan int, 1)
	if _, err := describe(t, cmd.Process.Pid).OnDeath(func() { died <- pidfds() }); err != nil {
		t.Fatal(err)
	}
	if during := pidfds(); during != before+1 {
		t.Errorf("waiting for the death takes %d descriptors, not 1", during-before)
	}

	if err := cmd.Process.Kill(); err != nil { // not yet collected, since Wait would close another pidfd
		t.Fatal(err)
	}
	if after := <-died; after != before {
		t.Errorf("%d descriptors after the death, and %d before the wait", after, before)
	}
	_ = cmd.Wait()
}
