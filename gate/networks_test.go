package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/version"
	"terok-gate-hook/store"
)

// attachable opens a gate with a control socket, and returns what a hook is told.
func attachable(t *testing.T, settings gate.Settings) (*harness, hook.Settings) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "git", "ip", "nsenter")
	h := open(t, settings)
	h.demo(t, "demo", 3)
	return h, h.takeHooks(t)
}

// takeHooks has the gate listen to hooks, and returns what a hook is told.
func (h *harness) takeHooks(t *testing.T) hook.Settings {
	t.Helper()
	path := filepath.Join(h.dir, "control")
	l, err := testenv.ListenForHooks(path)
	must(t, err)
	go h.ServeControl(l)
	return hook.Settings{Tokens: h.tokens, GateSocket: path, GateTimeout: 10 * time.Second}
}

// container is a process in a network namespace, with a token.
type container struct {
	store.Entry
	*testenv.NetworkProcess
}

// container starts a container, in the neighbour's network if there is one.
func (h *harness) container(t *testing.T, neighbour *container) *container {
	t.Helper()
	pid := 0
	if neighbour != nil {
		pid = neighbour.PID
	}
	c := &container{NetworkProcess: testenv.StartInNetwork(t, pid)}

	token, err := store.NewToken()
	must(t, err)
	c.Entry = store.Entry{
		Token: token, Grant: store.Grant{Project: "demo", Task: "task-1"}, Container: fmt.Sprintf("c%d", c.PID),
		Gate: &store.Attached{Listen: "127.0.0.1:9418"},
	}
	c.Process, err = store.ProcessOf(c.PID)
	must(t, err)

	must(t, c.Enter(func() (err error) {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(socket)
			c.Gate.Network, err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		}
		return err
	}))
	return c
}

// commit makes the container's token valid.
func (h *harness) commit(t *testing.T, c *container) {
	t.Helper()
	_, err := h.tokens.Issue(c.Entry)
	must(t, err)
}

// start is all that a hook does.
func (h *harness) start(t *testing.T, hook hook.Settings, c *container) {
	t.Helper()
	must(t, hook.Attach(c.Entry))
	h.commit(t, c)
}

// inside returns a command in the container's network.
func (c *container) inside(name string, args ...string) *exec.Cmd {
	cmd := c.Command(name, args...)
	cmd.Env = command("/").Env
	return cmd
}

// git runs git in the container's network.
func (c *container) git(dir string, args ...string) (string, error) {
	cmd := c.inside("git", append([]string{"-c", "user.name=A", "-c", "user.email=a@example"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// repo is the project's URL in the container, with the token if it is given one.
func (c *container) repo(token store.Token) string {
	user := ""
	if token != "" {
		user = string(token) + ":@"
	}
	return "http://" + user + c.Gate.Listen + "/demo.git"
}

// reaches reports whether git gets what it asks for.
func (c *container) reaches(token store.Token) error {
	if out, err := c.git("/", "ls-remote", c.repo(token)); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// listen listens in the container's network at the address that the gate would use.
func (c *container) listen(t *testing.T) {
	t.Helper()
	var l net.Listener
	must(t, c.Enter(func() (err error) {
		l, err = net.Listen("tcp", c.Gate.Listen)
		return err
	}))
	t.Cleanup(func() { l.Close() })
}

// watchNetwork returns a function that reports whether the container's network namespace is still
// there. One end of a virtual cable is in the namespace. When the namespace goes, both ends go.
func (c *container) watchNetwork(t *testing.T) (there func() bool) {
	t.Helper()
	name := "gt" + strconv.Itoa(c.Process.PID)
	out, err := exec.Command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth9", "netns", strconv.Itoa(c.Process.PID)).CombinedOutput()
	if err != nil {
		t.Fatalf("ip link add: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	return func() bool {
		_, err := net.InterfaceByName(name)
		return err == nil
	}
}

func TestAContainerWithoutANetworkClonesAndPushes(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	network := c.watchNetwork(t)
	must(t, hook.Attach(c.Entry))
	if err := c.reaches(c.Token); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("before the token counts, git says %v", err)
	}
	if refused := h.trailed(t, trail.Refused, 1)[0]; refused.Container != c.Container {
		t.Errorf("the trail does not say which container was refused: %+v", refused)
	}

	h.commit(t, c)
	work := t.TempDir()
	for _, args := range [][]string{
		{"clone", "--quiet", c.repo(c.Token), work}, {"-C", work, "commit", "--quiet", "--allow-empty", "-m", "work"}, {"-C", work, "push", "--quiet"},
	} {
		if out, err := c.git("/", args...); err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if got := git(t, h.repos+"/demo.git", "log", "-1", "--format=%s"); got != "work" {
		t.Errorf("the last commit is %q", got)
	}

	push := h.trailed(t, trail.Push, 1)[0]
	if push.Container != c.Container || !strings.HasPrefix(push.From, "listener-"+c.Container+"-") {
		t.Errorf("the trail does not say whence the push came: %+v", push)
	}

	if err := c.reaches(""); err == nil {
		t.Error("the container is served without a token")
	}

	c.End()
	testenv.Eventually(t, "its network is gone", func() bool { return !network() })
}

func TestAListenerWhoseTokenNeverCountedGoesWithItsContainer(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	network := c.watchNetwork(t)
	must(t, hook.Attach(c.Entry))
	c.End()
	testenv.Eventually(t, "its network is gone", func() bool { return !network() })
}

func TestAContainerWithAWithheldTokenNeedsNone(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	h.demo(t, "other", 1)
	c := h.container(t, nil)
	c.Gate.Withheld = true

	must(t, hook.Attach(c.Entry))
	if err := c.reaches(""); err == nil {
		t.Error("the container is served before its token counts")
	}

	h.commit(t, c)
	if err := c.reaches(""); err != nil {
		t.Errorf("without credentials: %v", err)
	}
	if err := c.reaches("terok-g-ffffffffffffffffffffffffffffffff"); err != nil {
		t.Errorf("with credentials that count for nothing: %v", err)
	}
	if out, err := c.git("/", "ls-remote", strings.Replace(c.repo(""), "demo", "other", 1)); err == nil {
		t.Errorf("the container reaches another project: %s", out)
	}

	if code := h.status(t, "/demo.git/info/refs?service=git-upload-pack"); code != http.StatusUnauthorized {
		t.Errorf("elsewhere, without credentials, the answer is %d", code)
	}

	h.revoke(t, "demo")
	if err := c.reaches(""); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("when its token is revoked, git says %v", err)
	}
}

// status asks at the gate's own address without credentials.
func (h *harness) status(t *testing.T, path string) int {
	t.Helper()
	answer, _ := h.request(t, http.MethodGet, path, "", "")
	return answer.StatusCode
}

func TestContainersThatShareANetworkShareTheListener(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	first := h.container(t, nil)
	network := first.watchNetwork(t)
	h.start(t, hook, first)

	second := h.container(t, first)
	h.start(t, hook, second)
	for range 2 { // to attach again changes nothing
		must(t, hook.Attach(second.Entry))
	}

	for _, c := range []*container{first, second} {
		if err := c.reaches(c.Token); err != nil {
			t.Error(err)
		}
	}

	first.End()
	testenv.Eventually(t, "the first one's token is over", func() bool { return second.reaches(first.Token) != nil })
	for range 3 { // a third one comes and goes
		third := h.container(t, second)
		h.start(t, hook, third)
		if err := third.reaches(third.Token); err != nil {
			t.Error(err)
		}
		third.End()
	}

	if err := second.reaches(second.Token); err != nil {
		t.Error(err)
	}
	second.End()
	testenv.Eventually(t, "their network is gone", func() bool { return !network() })
}

func TestTwoHooksAtOnceInOneNetworkBothSucceed(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	for range 10 {
		first := h.container(t, nil)
		both := []*container{first, h.container(t, first)}
		var wg sync.WaitGroup
		for _, c := range both {
			wg.Go(func() {
				if err := hook.Attach(c.Entry); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, c := range both {
			h.commit(t, c)
			if err := c.reaches(c.Token); err != nil {
				t.Error(err)
			}
			c.End()
		}
	}
}

func TestAttachIsRefused(t *testing.T) {
	h, told := attachable(t, gate.Settings{})
	told.GateTimeout = 300 * time.Millisecond

	withheld := func(c *container) *container {
		c.Gate.Withheld = true
		return c
	}

	for _, row := range []struct {
		name string
		c    func(t *testing.T) *container
		want error
	}{
		{"where a hostile neighbour listens", func(t *testing.T) *container {
			neighbour := h.container(t, nil)
			neighbour.listen(t)
			return h.container(t, neighbour)
		}, hook.ErrTaken},
		{"where another withholds its token", func(t *testing.T) *container {
			neighbour := withheld(h.container(t, nil))
			h.start(t, told, neighbour)
			return h.container(t, neighbour)
		}, hook.ErrNotAlone},
		{"where another withholds its token, at another address", func(t *testing.T) *container {
			neighbour := withheld(h.container(t, nil))
			h.start(t, told, neighbour)
			c := h.container(t, neighbour)
			c.Gate.Listen = "127.0.0.1:9419"
			return c
		}, hook.ErrNotAlone},
		{"withholding its token, where another is", func(t *testing.T) *container {
			neighbour := h.container(t, nil)
			h.start(t, told, neighbour)
			return withheld(h.container(t, neighbour))
		}, hook.ErrNotAlone},
		{"in the gate's own network", func(t *testing.T) *container {
			c := h.container(t, nil)
			var err error
			c.Process, err = store.ProcessOf(os.Getpid())
			must(t, err)
			return c
		}, hook.ErrHostNetwork},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := row.c(t)
			if err := told.Attach(c.Entry); !errors.Is(err, row.want) {
				t.Errorf("the hook says %v", err)
			}
		})
	}
}

// The hook checks this itself, and would not ask. Here the gate is asked all the same.
func TestTheGateRefusesItsOwnNetwork(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	plain := net.ListenConfig{}
	plain.SetMultipathTCP(false)
	l, err := plain.Listen(context.Background(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	must(t, err)
	defer file.Close()
	err = control.Hand(hook.GateSocket, time.Now().Add(time.Minute), int(file.Fd()), control.Request{
		Container: c.Container, Process: c.Process, Token: c.Token.Key(), Listen: l.Addr().String(),
	})
	if !errors.Is(err, control.HostNetwork) {
		t.Errorf("the gate says %v", err)
	}
}

func TestAnotherUsersRequestsAreRefused(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	must(t, os.Chmod(hook.GateSocket, 0o666))
	must(t, os.Chmod(filepath.Dir(hook.GateSocket), 0o755))
	ask := func(uid uint32) string {
		cmd := testenv.Again()
		cmd.Path = "/proc/self/exe"
		cmd.Env = append(cmd.Env, askVar+"="+hook.GateSocket, askPID+"="+strconv.Itoa(c.Process.PID))
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if said := ask(0); !strings.Contains(said, "taken") {
		t.Errorf("root is told %q", said)
	}
	if said := ask(12345); !strings.Contains(said, "user 12345 may not use the control socket") {
		t.Errorf("another user is told %q", said)
	}
}

// askVar and askPID make this test binary ask a gate to serve a process, with a socket that
// listens nowhere, and print the answer.
const askVar, askPID = "TEROK_GATE_TEST_ASK", "TEROK_GATE_TEST_ASK_PID"

func askGate() error {
	pid, err := strconv.Atoi(os.Getenv(askPID))
	if err != nil {
		return err
	}
	process, err := store.ProcessOf(pid)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return control.Hand(os.Getenv(askVar), time.Now().Add(time.Minute), socket, control.Request{
		Container: "c", Process: process, Token: someKey, Listen: "127.0.0.1:9418",
	})
}

var someKey = store.Token("terok-g-0123456789abcdef0123456789abcdef").Key()

func TestMessagesThatNoHookSendsAreRefused(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	process := fmt.Sprintf(`{"machine": %q, "boot": %q, "pid_ns": %q, "time_ns": %q, "pid": %d, "start": %d, "inode": %d}`,
		c.Process.Machine, c.Process.Boot, c.Process.PIDNS, c.Process.TimeNS, c.Process.PID, c.Process.Start, c.Process.Inode)
	good := `{"version": 1, "container": "c", "process": ` + process + `, "token": "` + someKey + `", "listen": "127.0.0.1:9418"}`

	tcp := func(t *testing.T) int {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(s) })
		return s
	}
	none := func(*testing.T) int { return -1 }

	for _, row := range []struct {
		name, message string
		socket        func(t *testing.T) int
		want          string
	}{
		{"nothing", ``, tcp, ``},
		{"no JSON", `{`, tcp, `"malformed"`},
		{"a later version", `{"version": 2}`, tcp, `"version"`},
		{"no version", `{}`, tcp, `"version"`},
		{"no process", `{"version": 1, "container": "c", "token": "x", "listen": "127.0.0.1:9418"}`, tcp, `"malformed"`},
		{"an id with a colon", strings.Replace(good, `"c"`, `"a:b"`, 1), tcp, `"malformed"`},
		{"an id that is too long", strings.Replace(good, `"c"`, `"`+strings.Repeat("x", 201)+`"`, 1), tcp, `"malformed"`},
		{"too long a message", good + strings.Repeat(" ", control.MessageLimit), tcp, `"malformed"`},
		{"no socket", good, none, `"absent"`},
		{"a later version, and no socket", `{"version": 2}`, none, `"version"`},
		{"a file", good, func(t *testing.T) int {
			f, err := os.Open("/dev/null")
			must(t, err)
			t.Cleanup(func() { f.Close() })
			return int(f.Fd())
		}, `"malformed"`},
		{"a UDP socket", good, func(t *testing.T) int {
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			t.Cleanup(func() { unix.Close(s) })
			return s
		}, `"malformed"`},
		{"a hook's, from the gate's own network", good, tcp, `"host"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: hook.GateSocket, Net: "unixpacket"})
			must(t, err)
			defer conn.Close()

			var rights []byte
			if s := row.socket(t); s >= 0 {
				rights = unix.UnixRights(s)
			}

			if row.message == "" {
				must(t, conn.CloseWrite())
			} else {
				_, _, err = conn.WriteMsgUnix([]byte(row.message), rights, nil)
				must(t, err)
			}

			answer := make([]byte, control.MessageLimit)
			n, err := conn.Read(answer)
			if row.want == "" && err == io.EOF {
				return
			}
			must(t, err)
			if !strings.HasPrefix(string(answer[:n]), `{"version":1,"refused":`+row.want) {
				t.Errorf("the gate says %s", answer[:n])
			}
		})
	}
}

func TestTheGateReportsItselfAndTheContainersItServes(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	asks := func(about control.Request) (control.Gate, error) {
		return control.Ask(hook.GateSocket, time.Now().Add(time.Minute), about)
	}

	want := control.Gate{Program: version.String(), UID: os.Geteuid(), TokenFile: h.tokens.Path, Repos: filepath.Join(h.dir, "repos")}
	if got, err := asks(control.Request{}); got != want || err != nil {
		t.Errorf("the gate says %+v, %v", got, err)
	}

	about := control.Request{Container: c.Container, Process: c.Process, Token: c.Token.Key(), Listen: "127.0.0.1:9418"}
	if got, err := asks(about); got != want || !errors.Is(err, control.Absent) {
		t.Errorf("of a container that is not served, the gate says %+v, %v", got, err)
	}

	h.start(t, hook, c)
	if got, err := asks(about); got != want || err != nil {
		t.Errorf("of one that is served, the gate says %+v, %v", got, err)
	}

	elsewhere := about
	elsewhere.Listen = "127.0.0.1:1"
	if _, err := asks(elsewhere); !errors.Is(err, control.Absent) {
		t.Errorf("of another address in its network, the gate says %v", err)
	}

	c.End()
	testenv.Eventually(t, "the container is not served any more", func() bool {
		_, err := asks(about)
		return errors.Is(err, control.Absent)
	})
}

func TestNothingStaysOfContainersThatCameAndWent(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	life := func() func() bool {
		c := h.container(t, nil)
		network := c.watchNetwork(t)
		h.start(t, hook, c)
		if err := c.reaches(c.Token); err != nil {
			t.Error(err)
		}
		c.End()
		return network
	}

	var networks []func() bool
	gone := func() bool {
		return !slices.ContainsFunc(networks, func(there func() bool) bool { return there() })
	}

	lives := func(n int) (descriptors int) {
		networks = nil
		for range n {
			networks = append(networks, life())
		}
		testenv.Eventually(t, "their networks are gone", gone)
		http.DefaultClient.CloseIdleConnections()
		return len(glob("/proc/self/fd/*"))
	}

	before := lives(3)
	testenv.Eventually(t, "no descriptor is left of a hundred lives", func() bool { return lives(100) <= before })
}

// kept returns the names of what gates have kept.
func kept(t *testing.T, shelf *testenv.Shelf) (names []string) {
	t.Helper()
	for _, name := range shelf.Names() {
		if !networks.IsKept(name) {
			t.Fatalf("%q is kept", name)
		}
		names = append(names, name)
	}
	return names
}

func TestContainersStayServedWhenTheGateIsReplaced(t *testing.T) {
	shelf := &testenv.Shelf{}
	h, told := attachable(t, gate.Settings{Keeper: shelf})
	alone, shares := h.container(t, nil), h.container(t, nil)
	shares2 := h.container(t, shares)
	withholds := h.container(t, nil)
	withholds.Gate.Withheld = true
	late, dies := h.container(t, nil), h.container(t, nil)
	network := dies.watchNetwork(t)

	for _, c := range []*container{alone, shares, shares2, withholds, dies} {
		h.start(t, told, c)
	}
	must(t, told.Attach(late.Entry))        // its token does not count yet when the gate goes
	if n := len(kept(t, shelf)); n != 5+6 { // listeners and containers
		t.Errorf("%d files are kept: %q", n, kept(t, shelf))
	}
	stopNow(h.Gate)

	// No gate serves, and a request waits.
	waits := make(chan error, 1)
	go func() { waits <- alone.reaches(alone.Token) }()
	dies.End()
	h.commit(t, late)

	h.Gate = h.again(t, gate.Settings{Keeper: shelf})
	h.Restore(shelf.Passed(t))
	if err := <-waits; err != nil {
		t.Errorf("a request while there was no gate: %v", err)
	}
	for _, c := range []*container{alone, shares, shares2, late} {
		if err := c.reaches(c.Token); err != nil {
			t.Error(err)
		}
	}
	if err := withholds.reaches(""); err != nil {
		t.Error(err)
	}
	testenv.Eventually(t, "the network of one that ended meanwhile is gone", func() bool { return !network() })

	again := h.takeHooks(t)
	must(t, again.Attach(alone.Entry))
	if err := again.Attach(h.neighbourOf(t, withholds).Entry); !errors.Is(err, hook.ErrNotAlone) {
		t.Errorf("the new gate does not know which container withholds its token: %v", err)
	}

	for _, c := range []*container{alone, shares, shares2, withholds, late} {
		c.End()
	}
	testenv.Eventually(t, "nothing is kept of them", func() bool { return len(kept(t, shelf)) == 0 })
}

func TestAContainerStartsWhileTheOldGateIsStopping(t *testing.T) {
	shelf := &testenv.Shelf{}
	h, told := attachable(t, gate.Settings{Keeper: shelf})
	slow := h.dial(t, head("POST /demo.git/git-upload-pack", h.issue(t, "demo"), "Git-Protocol: version=2", "Connection: close",
		"Content-Type: application/x-git-upload-pack-request", "Content-Length: 24")+"0014comman")

	stopped := make(chan struct{})
	testenv.Eventually(t, "the slow request is under way", func() bool { return strings.Contains(h.metrics(), "terok_gate_requests_under_way 1\n") })
	go func() {
		h.Stop(context.Background())
		close(stopped)
	}()
	testenv.Eventually(t, "the gate takes no new connections", func() bool {
		conn, err := net.Dial("tcp", h.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})

	c := h.container(t, nil)
	h.start(t, told, c)
	waits := make(chan error, 1)
	go func() { waits <- c.reaches(c.Token) }()

	_, err := io.WriteString(slow, "d=ls-refs\n0000")
	must(t, err)
	if answer, err := io.ReadAll(slow); err != nil || !strings.Contains(string(answer), "refs/heads/main") {
		t.Errorf("the slow request is answered by %q, %v", answer, err)
	}
	<-stopped

	told.GateTimeout = 100 * time.Millisecond
	if err := told.Attach(h.container(t, nil).Entry); !errors.Is(err, hook.ErrNoGate) {
		t.Errorf("a gate that has ended answers a hook: %v", err)
	}

	next := h.again(t, gate.Settings{Keeper: shelf})
	next.Restore(shelf.Passed(t))
	if err := <-waits; err != nil {
		t.Errorf("a request while there was no gate: %v", err)
	}
}

func (h *harness) neighbourOf(t *testing.T, c *container) *container { return h.container(t, c) }

// The gate has no Keeper, so it leaves nothing to the next one, as if it had been killed.
func TestALostListenerIsMadeAgain(t *testing.T) {
	h, told := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	h.start(t, told, c)
	stopNow(h.Gate)
	if err := c.reaches(c.Token); err == nil {
		t.Fatal("there is no gate, but the container is served")
	}
	h.Gate = h.again(t, gate.Settings{})
	must(t, h.takeHooks(t).Attach(c.Entry))
	if err := c.reaches(c.Token); err != nil {
		t.Error(err)
	}
}

// crowd makes connections in the container. Each says half a request and waits.
func (c *container) crowd(t *testing.T, connections int) (end func()) {
	t.Helper()
	crowd := c.inside("sh", "-c", fmt.Sprintf(`for i in $(seq %d); do (printf 'GET /demo.git/info/refs'; sleep 1000) | busybox nc 127.0.0.1 9418 >/dev/null & done; echo sent; wait`, connections))
	crowd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, crowd.Start())
	end = sync.OnceFunc(func() {
		_ = unix.Kill(-crowd.Process.Pid, unix.SIGKILL)
		_ = crowd.Wait()
	})
	t.Cleanup(end)
	return end
}

func TestAContainerHoldsSoManyConnectionsAndNoMore(t *testing.T) {
	h, hook := attachable(t, gate.Settings{})
	c := h.container(t, nil)
	network := c.watchNetwork(t)
	h.start(t, hook, c)

	descriptors := len(glob("/proc/self/fd/*"))
	end := c.crowd(t, 200)
	testenv.Eventually(t, "the container has its share", func() bool { return len(glob("/proc/self/fd/*")) >= descriptors+64 })

	out, err := c.inside("sh", "-c", `until [ "$(grep -c ':24CA .* 01 ' /proc/net/tcp)" -ge 200 ]; do sleep 0.05; done`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	if n := len(glob("/proc/self/fd/*")); n > descriptors+64+8 {
		t.Errorf("%d descriptors, before it was %d", n, descriptors)
	}
	if code := h.status(t, "/demo.git/info/refs?service=git-upload-pack"); code != http.StatusUnauthorized {
		t.Errorf("others are answered with %d", code)
	}

	end()
	c.End()
	testenv.Eventually(t, "its network is gone", func() bool { return !network() })
}
