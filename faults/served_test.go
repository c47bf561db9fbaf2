// A gate in a process of its own, and containers that ask it from networks of their own.
// Only the container runtime is not real.

package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// house is a directory with a repository, a token file, and a gate that uses both.
type house struct {
	dir, repos, tokens, control string
	nursery                     *nursery

	gate    *exec.Cmd
	ended   chan struct{} // closed when the gate has ended
	address string        // where the gate listens on the host
}

var houses atomic.Int64

// newHouse starts a gate, and a nursery for this many networks at once.
func newHouse(t *testing.T, networks int) *house {
	t.Helper()
	testenv.NeedAlone(t)
	testenv.Need(t, "git", "ip", "nsenter", "unshare")
	h := &house{dir: filepath.Join(testenv.Dir, fmt.Sprintf("house%d", houses.Add(1)))}
	h.repos, h.tokens = filepath.Join(h.dir, "repos"), filepath.Join(h.dir, "tokens", "tokens.json")
	h.control = filepath.Join(h.dir, "gate", "control")

	must(t, os.MkdirAll(filepath.Join(h.dir, "bundle"), 0o755))
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	must(t, os.WriteFile(filepath.Join(h.dir, "bundle", "config.json"), []byte(`{"process":{"user":{"uid":0,"gid":0}},"root":{"path":"/"}}`), 0o644))

	demo := filepath.Join(h.repos, "demo.git")
	git(t, "init", "--quiet", "--bare", "--initial-branch=main", demo)
	tree := git(t, "-C", demo, "hash-object", "-t", "tree", "-w", "--stdin")
	git(t, "-C", demo, "update-ref", "refs/heads/main", git(t, "-C", demo, "commit-tree", "-m", "begin", tree))

	h.nursery = newNursery(t, networks)
	h.startGate(t)
	t.Cleanup(func() { h.endGate(unix.SIGTERM) })
	return h
}

// git runs git on the host, and returns what it prints.
func git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_COMMITTER_NAME=a", "EMAIL=a@example"}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	must(t, err)
	return strings.TrimSpace(string(out))
}

func (h *house) startGate(t *testing.T) {
	t.Helper()
	must(t, h.tryGate())
}

// tryGate starts a gate and waits until it serves.
func (h *house) tryGate() error {
	log, err := os.Create(filepath.Join(h.dir, "gate.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	socket, address, err := testenv.ListenForClients()
	if err != nil {
		return err
	}
	defer socket.Close()

	gate := testenv.ServiceCommand([]*os.File{socket}, gateBinary, "--token-file", h.tokens, "--log-file", filepath.Join(h.dir, "trail"), "serve", "--repos", h.repos, "--control", h.control,
		"--metrics", filepath.Join(h.dir, "metrics"))
	gate.Env = []string{"PATH=" + os.Getenv("PATH"), "LISTEN_FDS=1"}
	gate.Stderr = log
	if err := gate.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = gate.Wait()
		close(ended)
	}()
	h.gate, h.ended, h.address = gate, ended, address

	for end := time.After(testenv.AWhile); ; {
		said, _ := os.ReadFile(log.Name())
		if strings.Contains(string(said), "serving ") && listens(h.control) {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the gate ends at once: %s", said)
		case <-end:
			return fmt.Errorf("the gate does not serve: %s", said)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// listens reports whether a gate listens to hooks at the socket.
func listens(path string) bool {
	conn, err := net.Dial("unixpacket", path)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func (h *house) endGate(s unix.Signal) {
	_ = h.gate.Process.Signal(s)
	<-h.ended
}

// status returns the status of the answer to a request for the repository, at an address on the host.
func status(address, token string) (int, error) {
	r, err := http.NewRequest("GET", "http://"+address+"/demo.git/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return 0, err
	}
	if token != "" {
		r.SetBasicAuth(token, "")
	}
	r.Close = true
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

// stage returns the program that runs a stage of the hook for a container.
func (h *house) stage(stage, id string, pid int, more ...string) program {
	stdin := fmt.Sprintf(`{"ociVersion":"1.0.0","id":%q,"status":"created","bundle":%q,"pid":%d,"annotations":{"terok.project":"demo","terok.task":"1"}}`,
		id, filepath.Join(h.dir, "bundle"), pid)
	args := []string{"--token-file", h.tokens, stage}
	if stage == "prestart" {
		args = append(args, "--gate-socket", h.control)
	}
	return program{append(args, more...), stdin}.waiting(testenv.AWhile)
}

// succeeds runs a program, and returns an error if its exit status is not 0.
func succeeds(p program) error {
	f, err := run(p)
	if err == nil && f.status != 0 {
		err = fmt.Errorf("%s ends with status %d: %s", strings.Join(p.args, " "), f.status, f.stderr)
	}
	return err
}

// nursery is a user namespace in which containers are made, with a limit on the network
// namespaces that exist at once. The kernel counts them as long as anything holds them
// (namespaces(7), /proc/sys/user/max_net_namespaces).
type nursery struct {
	networks int // at once
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	stdout   *bufio.Reader
}

func newNursery(t *testing.T, networks int) *nursery {
	t.Helper()
	// Nothing in the nursery sees the /run of the machine.
	const script = `mount -t tmpfs none /run; while read -r most; do echo "$most" >/proc/sys/user/max_net_namespaces && echo done; done`
	cmd := exec.Command("sh", "-c", script)
	allIDs := []syscall.SysProcIDMap{{HostID: 0, Size: 1 << 16}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: allIDs, GidMappings: allIDs}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)

	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	n := &nursery{networks, cmd, stdin, bufio.NewReader(stdout)}
	n.limit(t, networks)
	return n
}

// limit sets how many networks can exist at once from now on.
func (n *nursery) limit(t *testing.T, networks int) {
	t.Helper()
	_, err := fmt.Fprintln(n.stdin, networks)
	must(t, err)
	if said, err := n.stdout.ReadString('\n'); said != "done\n" {
		t.Fatalf("the number of networks cannot be limited: %q, %v", said, err)
	}
}

// guest is a container's first process. It runs scripts of one line each, with the
// variables of gate.env in the environment.
type guest struct {
	id     string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	end    func() // kills the process and waits for its end
}

var guests atomic.Int64

// errNoNetwork reports that the limit on networks is reached.
var errNoNetwork = errors.New("no network is free")

// create makes a container, as a runtime does before the hook. Its process waits for its
// first script.
func (n *nursery) create() (*guest, error) {
	const script = `ip link set lo up && echo created
		read -r first; set -a; [ ! -e /run/terok/gate.env ] || . /run/terok/gate.env; next=$first
		while eval "$next" >/dev/null 2>/run/said; echo "$? $(tr '\n' ' ' </run/said)"; read -r next; do :; done`
	c := &guest{id: fmt.Sprintf("guest%d", guests.Add(1))}
	// Each container gets a /run of its own, since the hook mounts its directory in it.
	c.cmd = exec.Command("nsenter", fmt.Sprintf("--user=/proc/%d/ns/user", n.cmd.Process.Pid), fmt.Sprintf("--mount=/proc/%d/ns/mnt", n.cmd.Process.Pid),
		"unshare", "--net", "--mount", "sh", "-c", "mount -t tmpfs none /run; "+script)
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/run", "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1"}
	var said strings.Builder
	c.cmd.Stderr = &said

	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.stdout = bufio.NewReader(stdout)

	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.end = sync.OnceFunc(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	})

	if line, err := c.stdout.ReadString('\n'); line != "created\n" {
		c.end()
		if strings.Contains(said.String(), "No space left on device") {
			return nil, errNoNetwork
		}
		return nil, fmt.Errorf("the container is not created: %w: %s", err, said.String())
	}
	return c, nil
}

// soon creates a container once a network is free: the kernel cleans up late.
func (n *nursery) soon() (c *guest, err error) {
	if !testenv.Wait(func() bool {
		c, err = n.create()
		return !errors.Is(err, errNoNetwork)
	}) {
		return nil, errors.New("networks outlive their containers: waited in vain for one to be free")
	}
	return c, err
}

func (c *guest) pid() int { return c.cmd.Process.Pid }

// does runs a script in the container.
func (c *guest) does(script string) error {
	if _, err := fmt.Fprintln(c.stdin, script); err != nil {
		return err
	}
	answer, err := c.stdout.ReadString('\n')
	if err == nil && !strings.HasPrefix(answer, "0 ") {
		err = fmt.Errorf("%s: %s", script, answer)
	}
	return err
}

// token returns the token in the container's directory, empty if it is withheld.
func (c *guest) token() (string, error) {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/terok/gate.env", c.pid()))
	return string(aToken.Find(env)), err
}

// network opens the container's network, which then outlives the container.
func (c *guest) network() (*os.File, error) { return os.Open(fmt.Sprintf("/proc/%d/ns/net", c.pid())) }

// attached creates a container and runs prestart for it.
func (h *house) attached(t *testing.T, flags ...string) *guest {
	t.Helper()
	c, err := h.nursery.soon()
	must(t, err)
	t.Cleanup(c.end)
	must(t, succeeds(h.stage("prestart", c.id, c.pid(), flags...)))
	return c
}

// dialIn connects to an address in a network.
func dialIn(network *os.File, address string) (conn net.Conn, err error) {
	err = testenv.InNetwork(network, func() (err error) {
		conn, err = net.DialTimeout("tcp", address, 10*time.Second)
		return err
	})
	return conn, err
}
