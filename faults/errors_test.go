package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// Every system call of the hook fails in turn, either without effect or, as over a network,
// after its effect. A hook that could not do its job says so and leaves the token file alone,
// or, if it fails after the rename, leaves the whole new file. Any other hook has done all of
// its job.
func TestWhicheverSystemCallFailsTheJobIsDoneOrTheHookFailsAndNothingIsLost(t *testing.T) {
	needTracer(t)
	total, lost := 0, 0
	for _, s := range situations {
		t.Run(s.name, func(t *testing.T) {
			failures := []fault{{when: before, fail: unix.EIO}}
			if s.directory == "full" && !s.byHand {
				failures = append(failures, fault{when: after, fail: unix.EIO})
			}
			if s.name == "prestart, among other tokens" {
				failures = append(failures, fault{when: before, fail: unix.ENOSPC}, fault{when: before, fail: unix.EACCES},
					fault{when: before, fail: unix.EMFILE})
			}

			var survived atomic.Int64
			tried, failed, calm := sweep(t, s, failures, func(r *struck) error {
				if err := r.keepsQuiet(r.finished); err != nil {
					return err
				}
				if r.status == 0 {
					survived.Add(1)
				}
				return errors.Join(r.endsWell(), r.recovers(r.renamed))
			})

			if tried < 80 || changing(calm.calls) < 12 {
				t.Errorf("only %d points, %d calls that change something: some were missed", tried, changing(calm.calls))
			}

			t.Logf("points tried: %d (%d calls), done all the same: %d, lost: %d", tried, len(calm.calls), survived.Load(), failed)
			total, lost = total+tried, lost+failed
			noListenerIsLeft(t)
		})
	}
	t.Logf("ENOSPC, EIO, EACCES, EMFILE from each system call: points tried: %d, lost: %d", total, lost)
}

// logSocket describes the socket that the hook makes for the system log.
var logSocket = fmt.Sprintf("domain %d, type %d", unix.AF_UNIX, unix.SOCK_DGRAM)

// endsWell returns an error if a run that met a failing call neither did its whole job nor
// failed as a hook should.
func (r *struck) endsWell() error {
	ofLog := r.point.object == "log" || r.point.name == "sendto" || r.point.object == logSocket

	switch {
	case r.status == 0:
		if s := r.stderr; s != "" && !(ofLog && isOneLine(s, "log file: ", r.point.fail.Error())) {
			return fmt.Errorf("the hook says %q and ends with status 0", s)
		}
		if r.point.object == "stdout" {
			// The hook cannot say where the env file is, but the file is there.
			r.stdout = filepath.Join(r.dir, "env", r.id+".env") + "\n"
		}

		r.blind = r.judges()
		return r.done(r.stdout)
	case r.status != 1:
		return fmt.Errorf("the hook ends with status %d: %s", r.status, r.stderr)
	case ofLog:
		return fmt.Errorf("a log that cannot be written fails the hook: %s", r.stderr)
	case !isOneLine(r.stderr, r.stage+": ", r.point.fail.Error()) && r.point.object != "stderr":
		return fmt.Errorf("the hook does not say in one line what failed: %q", r.stderr)
	case r.renamed && r.stage == "prestart" && r.point.name != "renameat" && r.point.object != "gate":
		return fmt.Errorf("the hook fails after the rename, and neither the rename nor the directory's sync has failed: %s", r.stderr)
	case r.renamed:
		return r.committed()
	}

	return r.untouched()
}

// judges reports whether the call at the point examines a process, or the machine, the boot or
// the namespaces in which the hook itself runs.
func (r *struck) judges() bool {
	switch r.point.object {
	case "/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/proc/self/status", "/proc/<n>/stat":
		return true
	}
	return r.point.name == "pidfd_open" || r.point.name == "kill" || r.point.object == "pidfd" || strings.HasPrefix(r.point.object, "/proc/self/ns/")
}

// isOneLine reports whether the text is one error message of the program that has this
// beginning and contains these words.
func isOneLine(text, beginning, words string) bool {
	return strings.HasPrefix(text, "terok-gate-hook: "+beginning) && strings.Contains(text, words) &&
		strings.Count(text, "\n") == 1 && text[len(text)-1] == '\n'
}

// outcome returns an error unless a hook that ran in this world has done its job. If there
// are words, the hook must instead have failed with them in its one-line message, and
// changed nothing.
func (w *world) outcome(f finished, words string) error {
	if err := w.keepsQuiet(f); err != nil {
		return err
	}
	if words == "" {
		if f.status != 0 {
			return fmt.Errorf("the hook ends with status %d: %s", f.status, f.stderr)
		}
		return errors.Join(w.done(f.stdout), w.recovers(true))
	}
	if f.status != 1 || !isOneLine(f.stderr, w.stage+": ", words) {
		return fmt.Errorf("the hook ends with status %d and says %q, without %q", f.status, f.stderr, words)
	}
	return w.untouched()
}

// On a file system that is really full, the hook fails. Once there is room again, the next
// hook finds everything in order.
func TestOnAFullFileSystemTheHookFailsAndNothingIsLost(t *testing.T) {
	testenv.NeedAlone(t)
	const full = "no space left on device"
	for _, row := range []struct {
		stage, directory string
		options          string // of the tmpfs that is the token file's directory
		kept             int64  // bytes free in it, rounded down to pages; -1 for all
		fails            bool
	}{
		{stage: "prestart", directory: "full", options: "size=256k", kept: -1},
		{stage: "prestart", directory: "full", options: "size=64k", kept: 0, fails: true},
		{stage: "prestart", directory: "full", options: "size=64k", kept: 16 << 10, fails: true}, // the new file does not fit as a whole
		{stage: "prestart", directory: "full", options: "nr_inodes=3", kept: -1, fails: true},    // the lock has the last one
		{stage: "prestart", directory: "full", options: "nr_inodes=2", kept: -1, fails: true},    // not even a lock
		{stage: "prestart", directory: "empty", options: "nr_inodes=1", kept: -1, fails: true},
		{stage: "prestart", directory: "empty", options: "size=16k", kept: 0, fails: true},
		{stage: "poststop", directory: "full", options: "size=256k", kept: -1},
		{stage: "poststop", directory: "full", options: "size=64k", kept: 0, fails: true},
		{stage: "poststop", directory: "full", options: "nr_inodes=3", kept: -1, fails: true},
	} {
		t.Run(fmt.Sprintf("%s, directory %s, %s, %d bytes left", row.stage, row.directory, row.options, row.kept), func(t *testing.T) {
			w, err := newWorld(situation{stage: row.stage, directory: row.directory})
			must(t, err)
			defer w.remove()

			directory := filepath.Dir(w.tokens)
			must(t, unix.Mount("tmpfs", directory, "tmpfs", 0, fmt.Sprintf("mode=0755,uid=%d,gid=%d,%s", ownerUID, ownerGID, row.options)))
			defer unix.Unmount(directory, unix.MNT_DETACH)

			if row.directory == "full" {
				// Large enough to be written in part.
				now := without(w.before)
				now["terok-g-00000000000000000000000000000008"] = map[string]any{"scope": strings.Repeat("long", 5<<10)}
				must(t, writeTokens(w.tokens, now))
				must(t, w.remember())
			}
			if row.kept >= 0 {
				must(t, fill(filepath.Join(directory, "filler"), row.kept))
			}

			f, err := run(w.program())
			must(t, err)
			words := ""
			if row.fails {
				words = full
			}

			if _, err := os.Lstat(filepath.Join(directory, "filler")); err == nil {
				must(t, os.Remove(filepath.Join(directory, "filler")))
			}
			if err := w.outcome(f, words); err != nil {
				t.Error(err)
			}

			if row.fails {
				must(t, unix.Mount("tmpfs", directory, "tmpfs", unix.MS_REMOUNT, "size=1m,nr_inodes=100"))
				if err := w.recovers(false); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// fill fills the file system with one file, and keeps this many bytes free.
func fill(path string, keep int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	page := make([]byte, os.Getpagesize())
	for err == nil {
		_, err = file.Write(page)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	size, err := file.Seek(0, 1)
	if err != nil {
		return err
	}
	return file.Truncate(size - keep)
}

// The hook gets too few file descriptors. With any number of them, it does its whole job,
// or fails and changes nothing.
func TestWithTooFewDescriptorsTheJobIsDoneOrTheHookFails(t *testing.T) {
	testenv.NeedAlone(t)
	testenv.Need(t, "sh")
	for _, s := range situations {
		t.Run(s.name, func(t *testing.T) {
			succeeded, failed := 0, 0
			for limit := 4; succeeded == 0 && limit < 50; limit++ {
				w, err := newWorld(s)
				must(t, err)
				p := w.program()
				f, err := runCommand(exec.Command("sh", append([]string{"-c", `ulimit -n "$0" && exec "$@"`, fmt.Sprint(limit), p.binary()}, p.args...)...), p.stdin)
				must(t, err)
				must(t, w.keepsQuiet(f))

				if f.status == 0 {
					succeeded++
					// The log is written last and may be left out.
					if f.stderr != "" && !isOneLine(f.stderr, "log file: ", "too many open files") {
						t.Errorf("%d descriptors: it says %q and ends with status 0", limit, f.stderr)
					}
					w.blind = true
					err = w.done(f.stdout)
				} else {
					failed++
					err = w.untouched()
				}

				if err := errors.Join(err, w.recovers(f.status == 0)); err != nil {
					t.Errorf("%d descriptors, status %d: %v", limit, f.status, err)
				}
				w.remove()
			}

			if succeeded == 0 || failed == 0 {
				t.Errorf("%d runs succeeded, %d failed: there must be some of each", succeeded, failed)
			}
		})
	}
}

// No hook fails or waits because a log file cannot be written.
func TestALogFileThatCannotBeWrittenFailsNothing(t *testing.T) {
	testenv.NeedAlone(t)
	for _, row := range []struct {
		log  string
		make func(path string) error
		says string // in the one line about the log
	}{
		{"is in a directory that cannot be made", func(path string) error {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Dir(path), nil, 0o600)
		}, "not a directory"},
		{"is on a full file system", func(path string) error {
			return unix.Mount("/dev/full", touch(path), "", unix.MS_BIND, "")
		}, "no space left"},
		{"is on a file system without room for a new file", func(path string) error {
			return unix.Mount("tmpfs", filepath.Dir(path), "tmpfs", 0, "nr_inodes=1")
		}, "no space left"},
		{"is on a read-only file system", func(path string) error {
			return unix.Mount("tmpfs", filepath.Dir(path), "tmpfs", unix.MS_RDONLY, "")
		}, "read-only"},
		{"is a directory", func(path string) error { return os.Mkdir(path, 0o755) }, "is a directory"},
		{"is a fifo without a reader", func(path string) error { return unix.Mkfifo(path, 0o600) }, "no such device"},
		{"is a full fifo", fullFifo, "resource temporarily unavailable"},
		{"is a symbolic link", func(path string) error { return os.Symlink("elsewhere", path) }, "symbolic links"},
		{"is a socket", func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }, "no such device"},
	} {
		for _, s := range []situation{
			{stage: "prestart", directory: "full"},
			{stage: "poststop", directory: "full"},
		} {
			t.Run(s.stage+", the log file "+row.log, func(t *testing.T) {
				w, err := newWorld(s)
				must(t, err)
				defer w.remove()

				log := filepath.Join(w.dir, "logs/log")
				must(t, os.Mkdir(filepath.Dir(log), 0o755))
				must(t, row.make(log))
				defer unix.Unmount(filepath.Dir(log), unix.MNT_DETACH)
				defer unix.Unmount(log, unix.MNT_DETACH)

				p := w.program()
				for i, arg := range p.args {
					if arg == "--log-file" {
						p.args[i+1] = log
					}
				}

				f, err := run(p)
				must(t, err)

				lines := strings.SplitAfter(strings.TrimSuffix(f.stderr, "\n"), "\n")
				for _, line := range lines {
					if !isOneLine(strings.TrimSuffix(line, "\n")+"\n", "log file: ", row.says) {
						t.Errorf("the hook says %q of the log, without %q", line, row.says)
					}
				}
				if err := w.outcome(f, ""); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// No hook fails or waits because the system log cannot be written.
func TestASystemLogThatCannotBeWrittenFailsNothing(t *testing.T) {
	testenv.NeedAlone(t)
	for _, row := range []struct{ log, make string }{
		{"is missing", `mount -t tmpfs tmpfs /dev`},
		{"is a directory", `mount -t tmpfs tmpfs /dev && mkdir /dev/log`},
		{"is a file", `mount -t tmpfs tmpfs /dev && : > /dev/log`},
		{"is a link to itself", `mount -t tmpfs tmpfs /dev && ln -s log /dev/log`},
		{"is a fifo", `mount -t tmpfs tmpfs /dev && mkfifo /dev/log`},
		{"is a socket without a listener", `mount -t tmpfs tmpfs /dev && python3 -c 'import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind("/dev/log")'`},
		{"is a socket of another type", `mount -t tmpfs tmpfs /dev && python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind("/dev/log"); s.listen()'`},
	} {
		for _, s := range []situation{
			{stage: "prestart", directory: "full"},
			{stage: "poststop", directory: "full"},
		} {
			t.Run(s.stage+", /dev/log "+row.log, func(t *testing.T) {
				testenv.Need(t, "sh", "mount", "mkfifo", "python3")
				w, err := newWorld(s)
				must(t, err)
				defer w.remove()

				p := w.program()
				cmd := exec.Command("sh", append([]string{"-ec", row.make + ` && exec "$@"`, "sh", p.binary()}, p.args...)...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
				f, err := runCommand(cmd, p.stdin)
				must(t, err)

				if f.stderr != "" {
					t.Errorf("the hook says %q", f.stderr)
				}
				if err := w.outcome(f, ""); err != nil {
					t.Error(err)
				}
			})
		}
	}

	t.Run("prestart, /dev/log is a full socket", func(t *testing.T) {
		testenv.Need(t, "sh", "mount")
		w, err := newWorld(situation{stage: "prestart", directory: "full"})
		must(t, err)
		defer w.remove()

		p := w.program()
		cmd := exec.Command("sh", append([]string{"-ec", `mount --bind "$0" /dev/log && exec "$@"`, fullSocket(t, w.dir), p.binary()}, p.args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		f, err := runCommand(cmd, p.stdin)
		must(t, err)

		if f.stderr != "" {
			t.Errorf("the hook says %q", f.stderr)
		}
		if err := w.outcome(f, ""); err != nil {
			t.Error(err)
		}
	})
}

func touch(path string) string {
	os.WriteFile(path, nil, 0o600)
	return path
}

// fullFifo makes a fifo that is open for reading and holds all that it can.
func fullFifo(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // stays open
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 1))
	}
	if err == unix.EAGAIN {
		return nil
	}
	return err
}

// fullSocket makes a datagram socket whose buffer is full, and returns the socket's path.
func fullSocket(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "socket")
	receiver, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(receiver) })
	must(t, unix.Bind(receiver, &unix.SockaddrUnix{Name: path}))
	for range 1000 {
		sender, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(sender) })
		if err := unix.Sendto(sender, []byte("full"), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			return path
		} else {
			must(t, err)
		}
	}
	t.Fatal("the socket takes any number of messages")
	return ""
}
