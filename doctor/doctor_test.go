package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// The checks of doctor that need no podman: the token file, its lock, the log, the kernel.
// Those that need podman are tested in e2e.

const grant = `{"project": "demo", "task": "1"}`

// patient is a healthy token file and log file, which a test then damages.
type patient struct{ directory, tokens, log string }

func newPatient(t *testing.T) patient {
	t.Helper()
	directory := filepath.Join(t.TempDir(), "gate")
	p := patient{directory, filepath.Join(directory, "tokens.json"), filepath.Join(directory, "log")}
	must(t, os.Mkdir(directory, 0o700))
	p.write(t, `{"terok-g-0123456789abcdef0123456789abcdef": `+grant+`}`)
	return p
}

func (p patient) write(t *testing.T, content string) {
	t.Helper()
	must(t, os.WriteFile(p.tokens, []byte(content), 0o600))
}

// examine returns what doctor finds where there is no podman.
func (p patient) examine(t *testing.T, change func(*Doctor)) []Finding {
	t.Helper()
	here := os.Getenv("PATH")
	bin := t.TempDir()
	test, err := exec.LookPath("test")
	must(t, err)
	must(t, os.Symlink(test, filepath.Join(bin, "test")))
	t.Setenv("PATH", bin)
	defer t.Setenv("PATH", here)
	d := Doctor{TokenFile: p.tokens, LogFile: p.log, Binary: "/nothing"}
	if change != nil {
		change(&d)
	}
	var findings []Finding
	d.Examine(t.Context(), func(f Finding) { findings = append(findings, f) })
	return findings
}

// finds fails the test unless doctor has found this.
func finds(t *testing.T, findings []Finding, check string, state State, text string) {
	t.Helper()
	for _, f := range findings {
		if f.Check == check && f.State == state && strings.Contains(f.Text, text) {
			if f.Remedy == "" && (state == Broken || state == Warning) {
				t.Errorf("%+v names no remedy", f)
			}
			return
		}
	}
	t.Errorf("no finding %s, %s, %q among\n%+v", check, state, text, findings)
}

func TestACheckRunsAfterThoseThatItNeeds(t *testing.T) {
	var before []string
	for _, c := range checks {
		for _, need := range c.needs {
			if !slices.Contains(before, need) {
				t.Errorf("%s needs %s, which does not run before it", c.name, need)
			}
		}
		if slices.Contains(before, c.name) {
			t.Errorf("two checks are called %s", c.name)
		}
		before = append(before, c.name)
	}
}

func TestDoctorHasNothingToSayAgainstAHealthyTokenFile(t *testing.T) {
	p := newPatient(t)
	_, noID := os.Stat("/etc/machine-id")
	for _, f := range p.examine(t, nil) {
		if noID != nil && f.Check == "machine-id" {
			continue // rightly: this machine has none
		}
		if (f.State != OK || f.Remedy != "") != (f.Check == "podman") {
			t.Errorf("%+v", f)
		}
	}
	must(t, os.Remove(p.tokens))
	finds(t, p.examine(t, nil), "token-file", OK, "not there yet")
	must(t, os.Remove(p.directory))
	finds(t, p.examine(t, nil), "token-file", OK, "not there yet")
}

func TestDoctorFindsWhatIsWrongWithATokenFile(t *testing.T) {
	for _, row := range []struct {
		name  string
		make  func(t *testing.T, p patient)
		check string
		state State
		text  string
	}{
		{"corrupt", func(t *testing.T, p patient) { p.write(t, "{]") }, "token-file", Broken, ": byte 2"},
		{"a directory in its place", func(t *testing.T, p patient) {
			must(t, os.Remove(p.tokens))
			must(t, os.Mkdir(p.tokens, 0o700))
		}, "token-file", Broken, "not a regular file"},
		{"readable to others", func(t *testing.T, p patient) { must(t, os.Chmod(p.tokens, 0o604)) }, "token-file", Broken, "mode 0604"},
		{"in a directory that everybody may write to", func(t *testing.T, p patient) { must(t, os.Chmod(p.directory, 0o707)) },
			"token-file", Broken, "every user can write to directory"},
		{"below a file", func(t *testing.T, p patient) {
			must(t, os.RemoveAll(p.directory))
			must(t, os.WriteFile(p.directory, nil, 0o600))
		}, "token-file", Broken, "is not a directory"},
		{"a process that holds the lock", func(t *testing.T, p patient) {
			lock, err := os.OpenFile(p.tokens+".lock", os.O_RDWR|os.O_CREATE, 0o600)
			must(t, err)
			t.Cleanup(func() { lock.Close() })
			must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
		}, "lock", Broken, fmt.Sprintf("held for more than 2s by process %d (%q)", os.Getpid(), comm(t))},
		{"an orphan", func(t *testing.T, p patient) { orphan(t, p) }, "orphans", Warning, "tokens whose container is dead: 1"},
		{"limited tokens where a Python program writes", func(t *testing.T, p patient) {
			limit(t, p)
			limit(t, p)
		}, "limits", Warning, "tokens with limits: 2, hashed: 0, beside tokens that a Python program may have written: 1."},
		{"hashed tokens where a Python program writes", func(t *testing.T, p patient) {
			token, err := store.NewToken()
			must(t, err)
			_, err = store.File{Path: p.tokens}.Issue(store.Entry{Token: store.Token(token.Key()), Grant: store.Grant{Project: "demo", Task: "1"}})
			must(t, err)
		}, "limits", Warning, "tokens with limits: 0, hashed: 1, beside tokens that a Python program may have written: 1."},
		{"a frozen project", func(t *testing.T, p patient) {
			must(t, store.File{Path: p.tokens}.EditFreezes(func(f *store.Freezes) bool { return f.SetProject("demo", true) }))
		}, "frozen", Warning, "frozen containers: 0, frozen projects: 1"},
		{"everything frozen", func(t *testing.T, p patient) {
			must(t, store.File{Path: p.tokens}.EditFreezes(func(f *store.Freezes) bool { f.All = true; return true }))
		}, "frozen", Warning, "no container is served"},
		{"a file of freezes that is not understood", func(t *testing.T, p patient) {
			must(t, os.WriteFile(filepath.Join(p.directory, store.FreezesName), []byte("{"), 0o600))
		}, "frozen", Broken, "everything is frozen: the file that says what is frozen cannot be read"},
		{"a killed process's file", func(t *testing.T, p patient) {
			must(t, os.WriteFile(filepath.Join(p.directory, ".tokens.json.terok-gate-hook"), nil, 0o600))
		}, "leftovers", Warning, "left by a writer that was killed"},
		{"a log that others may read", func(t *testing.T, p patient) { must(t, os.WriteFile(p.log, nil, 0o644)) }, "log", Warning, "mode 0644"},
		{"hooks that refused and failed", func(t *testing.T, p patient) {
			now := time.Now().UTC().Format(time.RFC3339Nano)
			must(t, os.WriteFile(p.log, []byte(`{"time":"2020-01-01T00:00:00Z","event":"failed","error":"long ago"}
{"time":"`+now+`","event":"refused","error":"not this project"}
{"time":"`+now+`","event":"issued"}
{"time":"`+now+`","event":"failed","error":"no such luck"}
`), 0o600))
		}, "log", Warning, "hooks that refused or failed within a day: 2, the last ones: "},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPatient(t)
			row.make(t, p)
			finds(t, p.examine(t, nil), row.check, row.state, row.text)
		})
	}
}

// The process that took the lock can be gone while a child of it holds the lock.
func TestDoctorSpeaksOfNoProcessThatIsGone(t *testing.T) {
	p := newPatient(t)
	testenv.Need(t, "flock")

	taker := exec.Command("flock", "--no-fork", p.tokens+".lock", "sh", "-c", "sleep 600 & echo $!")
	out, err := taker.StdoutPipe()
	must(t, err)
	must(t, taker.Start())

	child := 0
	_, err = fmt.Fscan(out, &child)
	must(t, err)
	t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })

	_, err = taker.Process.Wait() // its child goes on, and keeps the lock
	must(t, err)

	found := p.examine(t, nil)
	finds(t, found, "lock", Broken, "held for more than 2s by another process")
	for _, f := range found {
		if f.Check == "lock" && !strings.Contains(f.Remedy, "fuser -v "+p.tokens+".lock") {
			t.Errorf("%+v", f)
		}
	}
}

func TestDoctorFindsATokenFileInTheWrongHands(t *testing.T) {
	testenv.NeedRoot(t)
	const nobody = 65534
	p := newPatient(t)
	must(t, os.Chown(p.tokens, nobody, -1))
	finds(t, p.examine(t, nil), "token-file", Warning, "belongs to user nobody")
	must(t, os.Chown(p.directory, nobody, -1))
	finds(t, p.examine(t, nil), "token-file", Warning, "belongs to user nobody, who can put another token file there")
	// The token file and its directory may belong to the gate's user, but the directory above
	// may not.
	asNobody := func(d *Doctor) { d.GateUser = "nobody" }
	finds(t, p.examine(t, asNobody), "token-file", OK, "tokens: 1")
	must(t, os.Chown(filepath.Dir(p.directory), nobody, -1))
	finds(t, p.examine(t, asNobody), "token-file", Broken, "belongs to user nobody, who can put another token file there")
}

func TestDoctorTriesWhetherTheGatesUserCanReadTheTokenFile(t *testing.T) {
	testenv.NeedRoot(t)
	asNobody := func(d *Doctor) { d.GateUser = "nobody" }
	p := newPatient(t)
	for dir := filepath.Dir(p.directory); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o711))
	}
	finds(t, p.examine(t, asNobody), "gate-user", Broken, "user nobody cannot read "+p.tokens)

	must(t, os.Chmod(p.directory, 0o711))
	finds(t, p.examine(t, asNobody), "gate-user", Broken, "user nobody cannot read")

	must(t, os.Chmod(p.tokens, 0o640))
	must(t, os.Chown(p.tokens, 0, 65534)) // its group
	finds(t, p.examine(t, asNobody), "gate-user", OK, "user nobody can read")

	must(t, os.Remove(p.tokens))
	finds(t, p.examine(t, asNobody), "gate-user", Warning, "not there yet")

	must(t, os.Chown(p.directory, 65534, -1))
	finds(t, p.examine(t, asNobody), "gate-user", OK, "will belong to user nobody")

	finds(t, p.examine(t, func(d *Doctor) { d.GateUser = "root" }), "gate-user", OK, "will belong to user root")
	finds(t, p.examine(t, func(d *Doctor) { d.GateUser = "no-such-user" }), "gate-user", Broken, "unknown user")
}

// open lets all users enter the directories above a directory.
func open(t *testing.T, directory string) {
	t.Helper()
	for dir := filepath.Dir(directory); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o711))
	}
}

func TestDoctorNamesTheDirectoryThatKeepsTheGateOut(t *testing.T) {
	testenv.NeedRoot(t)
	p := newPatient(t)
	open(t, p.directory)
	closed := filepath.Dir(p.directory)
	must(t, os.Chmod(closed, 0o700))
	finds(t, p.examine(t, func(d *Doctor) { d.GateUser = "nobody" }), "gate-user", Broken, closed+" is closed to that user")
}

func TestRepairMendsWhatIsSafeToMend(t *testing.T) {
	repair := func(d *Doctor) { d.Repair = true }
	p := newPatient(t)
	orphan(t, p)
	finds(t, p.examine(t, repair), "orphans", Fixed, "revoked 1")
	leftover := filepath.Join(p.directory, ".tokens.json.terok-gate-hook")
	must(t, os.WriteFile(leftover, nil, 0o600))
	finds(t, p.examine(t, repair), "leftovers", Fixed, "removed")
	if _, err := os.Lstat(leftover); err == nil {
		t.Error("what the killed writer left is still there")
	}
	entries, err := store.File{Path: p.tokens}.Entries()
	if err != nil || len(entries) != 1 || entries[0].Project != "demo" {
		t.Errorf("left are %v, %v", entries, err)
	}

	p.write(t, "not tokens")
	finds(t, p.examine(t, repair), "token-file", Fixed, "set aside as "+p.tokens+".corrupt-")
	aside, _ := filepath.Glob(p.tokens + ".corrupt-*")
	if len(aside) != 1 {
		t.Fatalf("set aside: %q", aside)
	}
	if content, err := os.ReadFile(aside[0]); err != nil || string(content) != "not tokens" {
		t.Errorf("set aside is %q, %v", content, err)
	}
	finds(t, p.examine(t, repair), "token-file", OK, "not there yet")
}

// To the kernel, sshfs is a real network file system. Its server is at the other end of a pipe.
func TestDoctorFindsATokenFileOnANetworkFileSystem(t *testing.T) {
	testenv.NeedRoot(t)
	server := "/usr/lib/openssh/sftp-server"
	testenv.Need(t, "sshfs", "fusermount3")
	if _, err := os.Stat(server); err != nil {
		testenv.Cannot(t, "%s is not installed", server)
	}

	p := newPatient(t)
	mountPoint := t.TempDir()
	fs, sftp := exec.Command("sshfs", "-f", "-o", "passive", ":"+p.directory, mountPoint), exec.Command(server)
	sftp.Stdin, fs.Stdout = pipe(t)
	fs.Stdin, sftp.Stdout = pipe(t)
	must(t, sftp.Start())
	must(t, fs.Start())
	t.Cleanup(func() {
		if out, err := exec.Command("fusermount3", "-u", mountPoint).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
		fs.Wait()
		sftp.Process.Kill()
		sftp.Wait()
	})

	onNetwork := patient{mountPoint, filepath.Join(mountPoint, "tokens.json"), p.log}
	for end := time.Now().Add(20 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if _, err := os.Stat(onNetwork.tokens); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("sshfs has mounted nothing in time")
		}
	}

	finds(t, onNetwork.examine(t, nil), "token-file", Broken, "network file system (fuse.sshfs at "+mountPoint+")")

	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(mountPoint, link))
	overLink := patient{link, filepath.Join(link, "tokens.json"), p.log}
	finds(t, overLink.examine(t, nil), "token-file", Broken, "network file system (fuse.sshfs at "+mountPoint+")")
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// Linux before 5.12 has no mount_setattr(2), and Linux before 5.14 has no SO_NETNS_COOKIE. The test makes
// this kernel answer as these do.
func TestDoctorFindsAKernelThatIsTooOld(t *testing.T) {
	for _, row := range []struct {
		syscall uint32
		lacks   string
	}{
		{unix.SYS_MOUNT_SETATTR, "it has no mount_setattr(2)"},
		{unix.SYS_GETSOCKOPT, "it has no SO_NETNS_COOKIE"},
	} {
		onAThread(t, func() {
			noError(t, hideSyscall(row.syscall))
			finds(t, oneCheck("kernel", Doctor{}), "kernel", Broken, row.lacks)
		})
	}
}

// onAThread runs a test on a thread of its own, which ends with the test, so that changes to
// the thread end, too.
func onAThread(t *testing.T, test func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock it
		test()
	}()
	<-done
}

// oneCheck makes one check on the thread that calls it.
func oneCheck(name string, d Doctor) (found []Finding) {
	e := examination{Doctor: d, tokens: store.File{Path: d.TokenFile}, ctx: context.Background(), check: name, stopped: map[string]bool{}}
	e.report = func(f Finding) { found = append(found, f) }
	for _, c := range checks {
		if c.name == name {
			c.run(&e)
		}
	}
	return found
}

// ourOwn puts an empty directory in a directory's place, for the thread that calls it.
func ourOwn(t *testing.T, directory string) {
	t.Helper()
	noError(t, unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS))
	noError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	noError(t, unix.Mount("tmpfs", directory, "tmpfs", 0, ""))
}

// noError does the same as the function must, but on a thread that is not the test's.
func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}

// hideSyscall makes the kernel answer a system call of this thread with ENOSYS (seccomp(2)).
func hideSyscall(number uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}

// orphan adds a token whose process is dead.
func orphan(t *testing.T, p patient) {
	t.Helper()
	cmd := hold(t, p, "c1")
	must(t, cmd.Process.Kill())
	cmd.Wait()
}

// limit adds a token with limits.
func limit(t *testing.T, p patient) {
	t.Helper()
	token, err := store.NewToken()
	must(t, err)
	_, err = store.File{Path: p.tokens}.Issue(store.Entry{
		Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Limits: store.Limits{ReadOnly: true},
	})
	must(t, err)
}

func TestDoctorHasNothingAgainstLimitedTokensOfOurOwn(t *testing.T) {
	p := newPatient(t)
	finds(t, p.examine(t, nil), "limits", OK, "tokens with limits: 0, hashed: 0")
	p.write(t, "{}")
	limit(t, p)
	hold(t, p, "c1")
	token, err := store.NewToken()
	must(t, err)
	_, err = store.File{Path: p.tokens}.Issue(store.Entry{Token: store.Token(token.Key()), Grant: store.Grant{Project: "demo", Task: "2"}})
	must(t, err)
	finds(t, p.examine(t, nil), "limits", OK, "tokens with limits: 1, hashed: 1")
}

// A gate other than terok-gate refuses hashed and limited tokens with the answer for a wrong URL.
func TestDoctorSaysThatOnlyTerokGateKnowsHashedAndLimitedTokens(t *testing.T) {
	for _, row := range []struct {
		settings hook.Settings
		remedy   string
	}{
		{hook.Settings{}, "check that the URL is that of the gate"},
		{hook.Settings{Hashed: true}, "only terok-gate takes hashed or limited tokens"},
		{hook.Settings{Access: "read"}, "only terok-gate takes hashed or limited tokens"},
		{hook.Settings{Push: []string{"refs/**"}}, "only terok-gate takes hashed or limited tokens"},
	} {
		var found []Finding
		e := examination{check: "gate", settings: row.settings, report: func(f Finding) { found = append(found, f) }}
		e.probed = &probed{repository: "http://gate/demo.git", lines: []string{"fatal: unable to access: The requested URL returned error: 403"}}
		e.gate()
		if len(found) != 1 || found[0].State != Broken || !strings.Contains(found[0].Remedy, row.remedy) {
			t.Errorf("%+v: %+v", row.settings, found)
		}
	}
}

// hold adds a token for a container. The container's process lives as long as the test.
func hold(t *testing.T, p patient, container string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	process, err := store.ProcessOf(cmd.Process.Pid)
	must(t, err)
	token, err := store.NewToken()
	must(t, err)
	_, err = store.File{Path: p.tokens}.Issue(store.Entry{
		Token: token, Grant: store.Grant{Project: "held", Task: "1"}, Container: container, Process: process,
	})
	must(t, err)
	return cmd
}

func comm(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	return strings.TrimSpace(string(name))
}

var must = testenv.Must

func TestTheJSONOfFindingsStaysTheSame(t *testing.T) {
	got, err := json.Marshal([]Finding{{"lock", OK, "free", ""}, {"hooks", Broken, "none", "install"}})
	must(t, err)
	want := `[{"check":"lock","state":"ok","text":"free"},{"check":"hooks","state":"broken","text":"none","remedy":"install"}]`
	if string(got) != want {
		t.Errorf("%s", got)
	}
}
