package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// systemd is a service manager with a store of descriptors, as the real one has it
// (sd_notify(3), FDSTORE).
type systemd struct {
	conn *net.UnixConn

	mu    sync.Mutex
	ready int
	names []string // one for each file, as they came
	files []*os.File
}

func newSystemd(t *testing.T, dir string) *systemd {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &systemd{conn: conn}
	go func() {
		for {
			message, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
			n, r, _, _, err := conn.ReadMsgUnix(message, rights)
			if err != nil {
				return
			}
			if err := m.hear(string(message[:n]), rights[:r]); err != nil {
				t.Error(err)
			}
		}
	}()
	return m
}

func (m *systemd) hear(message string, rights []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if message == "READY=1" {
		m.ready++
	}
	if name, ok := strings.CutPrefix(message, "FDSTOREREMOVE=1\nFDNAME="); ok {
		for i := 0; i < len(m.names); {
			if m.names[i] != name {
				i++
				continue
			}
			m.files[i].Close()
			m.names, m.files = append(m.names[:i], m.names[i+1:]...), append(m.files[:i], m.files[i+1:]...)
		}
	}
	name, ok := strings.CutPrefix(message, "FDSTORE=1\nFDNAME=")
	if !ok {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%q comes with %d control messages: %v", message, len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("%q comes with %d files: %v", message, len(fds), err)
	}
	m.names, m.files = append(m.names, name), append(m.files, os.NewFile(uintptr(fds[0]), name))
	return nil
}

func (m *systemd) keeps() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.files)
}

// start starts a gate and waits until it is ready.
func (m *systemd) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("terok-gate")
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	before := m.ready
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", program, "serve"}, args...)...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(m.files)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"),
		"NOTIFY_SOCKET="+m.conn.LocalAddr().String())
	cmd.ExtraFiles, cmd.Stderr = m.files, os.Stderr
	err = cmd.Start()
	m.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the gate is ready", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ready > before
	})
	return cmd
}

func TestAServiceManagerKeepsWhatContainersNeed(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "git", "ip", "nsenter")
	dir := t.TempDir()
	file := store.File{Path: filepath.Join(dir, "tokens", "tokens.json")}
	repos, control := filepath.Join(dir, "repos"), filepath.Join(dir, "gate", "control")
	if out, err := exec.Command("git", "init", "--quiet", "--bare", repos+"/demo.git").CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, out)
	}
	m := newSystemd(t, dir)
	args := []string{"--repos", repos, "--token-file", file.Path, "--control", control}
	gate := m.start(t, args...)
	end := func(s syscall.Signal) {
		_ = gate.Process.Signal(s)
		_ = gate.Wait()
	}
	defer func() { end(syscall.SIGTERM) }()

	container := exec.Command("sh", "-c", "ip link set lo up && echo ready && exec cat")
	container.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := container.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := container.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	leave := sync.OnceFunc(func() {
		stdin.Close()
		_ = container.Wait()
	})
	defer leave()
	if n, err := stdout.Read(make([]byte, 10)); n == 0 {
		t.Fatal(err)
	}
	token, err := store.NewToken()
	if err != nil {
		t.Fatal(err)
	}
	process, err := store.ProcessOf(container.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	entry := store.Entry{
		Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c0ffee", Process: process,
		Gate: &store.Attached{Listen: "127.0.0.1:9418", Withheld: true},
	}
	if err := (hook.Settings{GateSocket: control, GateTimeout: time.Minute}).Attach(entry); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Issue(entry); err != nil {
		t.Fatal(err)
	}
	ask := func() *exec.Cmd {
		cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", process.PID), "git", "ls-remote", "http://127.0.0.1:9418/demo.git")
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
		cmd.Stderr = new(bytes.Buffer)
		return cmd
	}
	if err := ask().Run(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		end(s)
		if n := m.keeps(); n != 2 {
			t.Fatalf("%d files are kept of one container", n)
		}
		waits := ask()
		if err := waits.Start(); err != nil {
			t.Fatal(err)
		}
		gate = m.start(t, args...)
		if err := waits.Wait(); err != nil {
			t.Errorf("after %v, git says %v: %s", s, err, waits.Stderr)
		}
	}
	leave()
	testenv.Eventually(t, "nothing is kept of the container", func() bool { return m.keeps() == 0 })
}
