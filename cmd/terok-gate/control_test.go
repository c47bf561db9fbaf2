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

	name, ok := strings.CutPrefix(message, "FDSTORE=1\nFDPOLL=0\nFDNAME=")
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

// started is a gate that a service manager has started.
type started struct {
	*exec.Cmd
	said  bytes.Buffer  // on standard error; to be read after the gate's end
	ended chan struct{} // closed when the gate has ended
}

// start starts a gate and waits until it is ready.
func (m *systemd) start(t *testing.T, args ...string) *started {
	t.Helper()
	program, err := exec.LookPath("terok-gate")
	if err != nil {
		t.Fatal(err)
	}

	m.mu.Lock()
	before := m.ready
	gate := &started{
		Cmd:   testenv.ServiceCommand(m.files, program, args...),
		ended: make(chan struct{}),
	}
	gate.Env = append(gate.Env, "LISTEN_FDNAMES="+strings.Join(m.names, ":"),
		"NOTIFY_SOCKET="+m.conn.LocalAddr().String(), "TEROK_GATE_LOG_FILE="+m.conn.LocalAddr().String()+".trail.log")
	gate.Stderr = &gate.said
	err = gate.Start()
	m.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}

	go func() {
		_ = gate.Wait()
		close(gate.ended)
	}()
	testenv.Eventually(t, "the gate is ready, or has ended", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.ready > before || gate.hasEnded()
	})

	if gate.hasEnded() {
		t.Fatalf("the gate ends at once: %s", gate.said.String())
	}
	return gate
}

func (g *started) hasEnded() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

func (g *started) end(s syscall.Signal) {
	_ = g.Process.Signal(s)
	<-g.ended
}

// served is a container in a network of its own, to which a gate is attached.
type served struct{ *testenv.NetworkProcess }

func serveContainer(t *testing.T, n int, file store.File, control string) served {
	t.Helper()
	c := served{testenv.StartInNetwork(t, 0)}

	token, err := store.NewToken()
	must(t, err)
	process, err := store.ProcessOf(c.PID)
	must(t, err)
	entry := store.Entry{
		Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: fmt.Sprintf("c0ffee%d", n), Process: process,
		Gate: &store.Attached{Listen: "127.0.0.1:9418", Withheld: true},
	}

	must(t, hook.Settings{GateSocket: control, GateTimeout: time.Minute}.Attach(entry))
	_, err = file.Issue(entry)
	must(t, err)
	return c
}

// ask starts a git that asks the gate from the container.
func (c served) ask(t *testing.T) (answer func() error) {
	t.Helper()
	cmd := c.Command("git", "ls-remote", "http://127.0.0.1:9418/demo.git")
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("git: %w: %s", err, said.String())
		}
		return nil
	}
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
	args := []string{"--token-file", file.Path, "serve", "--repos", repos, "--control", control}
	gate := m.start(t, args...)
	defer func() { gate.end(syscall.SIGTERM) }()

	var containers []served
	for n := range 50 {
		containers = append(containers, serveContainer(t, n, file, control))
	}
	all := func() (answers []func() error) {
		for _, c := range containers {
			answers = append(answers, c.ask(t))
		}
		return answers
	}

	check := func(when string, answers []func() error) {
		t.Helper()
		for _, answer := range answers {
			if err := answer(); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}

	check("at first", all())
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		gate.end(s)
		if n := m.keeps(); n != 2*len(containers) {
			t.Fatalf("%d files are kept of %d containers, not 2 of each", n, len(containers))
		}
		waiting := all()
		gate = m.start(t, args...)
		check(fmt.Sprintf("asked after %v, before there was a gate again", s), waiting)
	}

	for _, c := range containers {
		c.End()
	}
	testenv.Eventually(t, "nothing is kept of the containers", func() bool { return m.keeps() == 0 })
}

var must = testenv.Must
