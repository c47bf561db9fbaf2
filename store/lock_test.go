package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// hold takes the lock as another program would.
func hold(t *testing.T, path string) (release func()) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatalf("lock %s: %v", path, err)
	}
	return func() { unix.Close(fd) }
}

// waiters returns how many calls of flock(2) wait in the kernel for the file. A waiter that polls
// is not counted.
func waiters(t *testing.T, path string) int {
	t.Helper()
	inode := fmt.Sprintf(":%d", statOf(t, path).Ino)
	n := 0
	for line := range strings.Lines(contentOf(t, "/proc/locks")) {
		// 1: -> FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF
		if fields := strings.Fields(line); len(fields) > 6 && fields[1] == "->" && strings.HasSuffix(fields[6], inode) {
			n++
		}
	}
	return n
}

// openHere reports whether this process has the file open.
func openHere(t *testing.T, path string) bool {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && target == path {
			return true
		}
	}
	return false
}

// withOneToken returns a token file with a token of container c1.
func withOneToken(t *testing.T) store.File {
	t.Helper()
	f := tokenFile(t)
	issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
	return f
}

func TestAWaiterGivesUpAtItsLimit(t *testing.T) {
	f := withOneToken(t)
	f.LockTimeout = 30 * time.Millisecond
	lock := f.Path + ".lock"
	check := untouched(t, f.Path)
	release := hold(t, lock)

	_, issued := f.CreateToken("demo", "2")
	_, _, revoked := f.RevokeContainer("c1")
	_, swept := f.Sweep()

	for _, err := range []error{issued, revoked, swept} {
		wantError(t, err, "lock file "+lock, "held for more than 30ms by process "+fmt.Sprint(os.Getpid()))
	}
	if entries, err := f.Entries(); err != nil || len(entries) != 1 {
		t.Errorf("a reader, which takes no lock, sees %v, error %v", entries, err)
	}
	check(t)

	release()
	testenv.Eventually(t, "the writers that gave up have closed the lock file", func() bool { return !openHere(t, lock) })
	check(t) // the waiters have changed nothing
}

func TestCheckLockFailsWhileTheLockIsHeld(t *testing.T) {
	f := withOneToken(t)
	f.LockTimeout = 30 * time.Millisecond
	check := untouched(t, f.Path)
	if err := f.CheckLock(); err != nil {
		t.Errorf("CheckLock fails although the lock is free: %v", err)
	}
	release := hold(t, f.Path+".lock")
	wantError(t, f.CheckLock(), "lock file "+f.Path+".lock", "held for more than 30ms")
	release()
	check(t)
	without := tokenFile(t)
	if err := without.CheckLock(); err != nil {
		t.Errorf("CheckLock fails although there is no lock file: %v", err)
	}
	if _, err := os.Lstat(without.Path + ".lock"); err == nil {
		t.Error("CheckLock made a lock file")
	}
}

func TestALockThatArrivesAfterItsWaiterGaveUpIsReleased(t *testing.T) {
	f := withOneToken(t)
	lock := f.Path + ".lock"
	release := hold(t, lock)
	hasty := store.File{Path: f.Path, LockTimeout: time.Millisecond}
	for range 3 {
		if _, err := hasty.CreateToken("demo", "2"); err == nil {
			t.Fatal("two hold the lock")
		}
	}
	testenv.Eventually(t, "three waiters are in the kernel", func() bool { return waiters(t, lock) == 3 })
	release()
	testenv.Eventually(t, "every lock is released", func() bool { return !openHere(t, lock) })
	hold(t, lock)()
}

func TestTheManualStatesTheDefaultLockTimeout(t *testing.T) {
	want := fmt.Sprintf("cannot be taken within this time. The default is **%v**.", store.DefaultLockTimeout)
	for _, page := range []string{"../docs/terok-gate.8.md", "../docs/terok-gate-hook.8.md"} {
		if text := strings.Join(strings.Fields(contentOf(t, page)), " "); !strings.Contains(text, want) {
			t.Errorf("%s does not say %q", page, want)
		}
	}
}

func TestAProcessThatWaitedForTheLockInVainEnds(t *testing.T) {
	f := withOneToken(t)
	check := untouched(t, f.Path)
	defer hold(t, f.Path+".lock")()
	cmd := helper(t, "issue", f.Path, "20ms")
	if err := cmd.Run(); err == nil {
		t.Error("a token was issued without the lock")
	}
	if got := fmt.Sprint(cmd.Stderr); !strings.Contains(got, f.Path+".lock") {
		t.Errorf("its error is %q", got)
	}
	check(t)
}

func TestAWaiterSleepsInTheKernelUntilItsTurn(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace")
	f := withOneToken(t)
	lock := f.Path + ".lock"
	release := hold(t, lock)
	cmd := under(t, helper(t, "issue", f.Path, "1m"), "strace", "-f", "-o", trace, "-e", "trace=flock")
	end := start(t, cmd)
	testenv.Eventually(t, "the helper waits in flock(2)", func() bool { return waiters(t, lock) == 1 })
	release()
	end()
	if n := strings.Count(contentOf(t, trace), "flock("); n != 3 {
		t.Errorf("flock(2) was called %d times, not once to try, once to wait and once to unlock:\n%s", n, contentOf(t, trace))
	}
	if entries, err := f.Entries(); err != nil || len(entries) != 2 {
		t.Errorf("entries %v, error %v", entries, err)
	}
}

func TestALockDiesWithItsHolder(t *testing.T) {
	f := withOneToken(t)
	killed := under(t, helper(t, "issue", f.Path, "1m"), "strace", "-f", "-o", "/dev/null",
		"-e", "trace=renameat,renameat2,rename", "-e", "inject=renameat,renameat2,rename:signal=KILL:when=1")
	if err := killed.Run(); err == nil {
		t.Fatal("the holder was not killed")
	}
	if _, err := f.CreateToken("demo", "2"); err != nil {
		t.Error(err)
	}
}

func TestALockFileThatIsNotARegularFileIsRefused(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(path, other string) error
	}{
		{"a symbolic link to a file", func(path, other string) error { return os.Symlink(other, path) }},
		{"a relative symbolic link", func(path, other string) error { return os.Symlink("tokens.json", path) }},
		{"a symbolic link to nothing", func(path, other string) error { return os.Symlink(other+".none", path) }},
		{"a symbolic link to itself", func(path, other string) error { return os.Symlink(path, path) }},
		{"a directory", func(path, other string) error { return os.Mkdir(path, 0o700) }},
		{"a fifo", func(path, other string) error { return unix.Mkfifo(path, 0o600) }},
		{"a socket", func(path, other string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			other := filepath.Join(t.TempDir(), "other")
			write(t, other, "")
			f := tokenFile(t)
			write(t, f.Path, `{"x": {"project": "demo", "task": "1", "container": "c1"}}`)

			lock := f.Path + ".lock"
			if err := row.make(lock, other); err != nil {
				t.Fatal(err)
			}

			check, checkOther, before := untouched(t, f.Path), untouched(t, other), *statOf(t, lock)
			for name, change := range map[string]func() error{
				"CreateToken":     func() error { _, err := f.CreateToken("demo", "2"); return err },
				"RevokeContainer": func() error { _, _, err := f.RevokeContainer("c1"); return err },
			} {
				err := change()
				wantError(t, err, "lock file "+lock)
				if t.Failed() {
					t.Fatalf("the call was %s", name)
				}
			}

			check(t)
			checkOther(t)
			after := *statOf(t, lock)
			before.Atim, after.Atim = syscall.Timespec{}, syscall.Timespec{}
			if before != after {
				t.Errorf("%s was %+v and is %+v", lock, before, after)
			}
		})
	}
}

func TestTheLockFileStays(t *testing.T) {
	f := withOneToken(t)
	before := statOf(t, f.Path+".lock").Ino
	if _, _, err := f.RevokeContainer("c1"); err != nil {
		t.Fatal(err)
	}
	if after := statOf(t, f.Path+".lock").Ino; after != before {
		t.Error("the lock file is another one now: two could hold the lock")
	}
}

func TestAFifoInPlaceOfTheDirectoryIsRefusedAtOnce(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	f := store.File{Path: filepath.Join(gate, "tokens.json")}
	if _, err := f.Entries(); err == nil {
		t.Error("a fifo is taken for a directory")
	}
	if _, err := f.Sweep(); err == nil {
		t.Error("a fifo is taken for a directory")
	}
}

func TestALockFileIsClosedToOtherUsers(t *testing.T) {
	f := tokenFile(t)
	write(t, f.Path, "{}")
	write(t, f.Path+".lock", "")
	chmod(t, f.Path+".lock", 0o664)
	issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}})
	info, err := os.Lstat(f.Path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o660 {
		t.Errorf("the lock file has mode %04o", got)
	}
}

func TestATokenFileAboveTheSizeLimitIsRefused(t *testing.T) {
	f := tokenFile(t)
	write(t, f.Path, "{}")
	if err := os.Truncate(f.Path, 1<<40); err != nil { // sparse: it costs nothing
		t.Fatal(err)
	}
	_, err := f.Entries()
	wantError(t, err, f.Path, "more than")
}
