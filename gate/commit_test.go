package gate_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// killsVar is the environment variable that says how many pushes are killed in each way.
const killsVar = "TEROK_TEST_KILLS"

// commits are pushes that are killed close to the moment when git commits the transaction that
// moves their refs. Each push creates one ref, moves one and deletes one. No other push names these
// refs.
type commits struct {
	*harness          // with the repository
	demo     string   // the repository
	near     *harness // what clients speak to
	way      killing
	gate     *exec.Cmd // the gate that is a process of its own, if there is one
	again    func(t *testing.T)

	tip, before string
	token       string
	logFile     string // of the gate with the repository, if that gate is a process: the harness then has no events

	gits             map[string][]int // pidfds of git and its hooks, by the push that is about to move its refs
	whole, committed time.Duration    // how long a push takes, and its last part, from moving to moved
}

// killing is a way in which a push is killed.
type killing struct {
	elsewhere bool   // the repository is at another gate
	git       bool   // git is killed
	process   string // the gate that is killed, "host" or "repos"
	kill      func(t *testing.T, c *commits, push string, conn *net.TCPConn)
}

var killings = map[string]killing{
	"git is killed":                          {git: true, kill: killGit},
	"git is killed, elsewhere":               {git: true, elsewhere: true, kill: killGit},
	"the client goes":                        {kill: leave},
	"the client goes, elsewhere":             {elsewhere: true, kill: leave},
	"its token is revoked":                   {kill: revokeToken},
	"its token is revoked, elsewhere":        {elsewhere: true, kill: revokeToken},
	"the host's gate is killed":              {elsewhere: true, process: "host", kill: killGate},
	"the gate with the repository is killed": {process: "repos", kill: killGate},
}

func killGit(_ *testing.T, c *commits, push string, _ *net.TCPConn) {
	c.mu.Lock()
	gits := c.gits[push]
	delete(c.gits, push)
	c.mu.Unlock()
	if gits == nil {
		gits = pidfdsIn(c.demo)
	}
	for _, pidfd := range gits {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_ = unix.Close(pidfd)
	}
}

func leave(_ *testing.T, _ *commits, _ string, conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

func revokeToken(t *testing.T, c *commits, _ string, _ *net.TCPConn) {
	c.near.revoke(t, "demo")
	c.token = ""
}

func killGate(_ *testing.T, c *commits, _ string, _ *net.TCPConn) {
	_ = c.gate.Process.Kill()
	_ = c.gate.Wait()
}

// pidfdsIn opens a pidfd for each process that works in a directory. A pid may soon belong to
// another process; a pidfd does not.
func pidfdsIn(directory string) (pidfds []int) {
	for _, process := range processesIn(directory) {
		path, _, _ := strings.Cut(process, " ")
		pid, _ := strconv.Atoi(filepath.Base(path))
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if cwd, err := os.Readlink(path + "/cwd"); err == nil && strings.HasPrefix(cwd, directory) {
			pidfds = append(pidfds, pidfd)
		} else {
			_ = unix.Close(pidfd)
		}
	}
	return pidfds
}

// At whatever moment a push is killed, the trail names what has moved, and nothing else. If the
// gate was killed itself, the last line about a ref may say only that the ref is to move.
func TestAPushThatIsKilledAtItsCommitMovesWhatTheTrailSays(t *testing.T) {
	kills := 10 // in each way; all ways together take 10 s
	if text := os.Getenv(killsVar); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		must(t, err)
	}
	for name, way := range killings {
		t.Run(name, func(t *testing.T) {
			c := openCommits(t, way)
			c.measure(t)

			phases, outcomes := map[string]int{}, map[string]int{}
			succeeded := map[string]bool{}
			var pushes []string
			for i := range kills {
				push := fmt.Sprintf("refs/heads/killed-%d/", i)
				pushes = append(pushes, push)
				phase, ok := c.killOne(t, push, func(conn *net.TCPConn) { way.kill(t, c, push, conn) })
				phases[phase]++
				succeeded[push] = ok
			}
			present := c.end(t)
			for _, push := range pushes {
				outcomes[c.check(t, push, present, succeeded[push], way.process == "repos")]++
			}
			t.Logf("%d pushes were killed, in these phases: %v; how many of their refs moved: %v", kills, phases, outcomes)
		})
	}
}

func openCommits(t *testing.T, way killing) *commits {
	t.Helper()
	c := &commits{way: way, gits: map[string][]int{}}
	settings := gate.Settings{Trail: c.noteGits}
	if way.elsewhere {
		f := openFleet(t, settings, gate.Settings{})
		c.harness, c.near = f.repos, f.host
		if way.process == "host" {
			stopNow(f.host.Gate)
			cert, key := f.authority.Issue(t, "host-a", nil, "host-a")
			c.runGate(t, "--repository-gate", "https://"+f.address, "--tls-cert", cert, "--tls-key", key, "--tls-ca", f.authority.CA)
		}
	} else {
		c.harness = open(t, settings)
		c.near = c.harness
		if way.process == "repos" {
			stopNow(c.Gate)
			c.logFile = filepath.Join(c.dir, "gate.log")
			c.runGate(t, "--repos", c.repos)
		}
	}

	c.demo = c.harness.demo(t, "demo", 2)
	c.tip, c.before = git(t, c.demo, "rev-parse", "main"), git(t, c.demo, "rev-parse", "main~1")
	return c
}

// runGate starts a gate as a process of its own, which serves the clients. c.again starts another
// one in its place. Clients can always connect, since the listener stays open.
func (c *commits) runGate(t *testing.T, args ...string) {
	t.Helper()
	program, err := terokGate()
	must(t, err)
	socket, address, err := testenv.ListenForClients()
	must(t, err)
	c.near.address = address
	c.again = func(t *testing.T) {
		c.gate = testenv.ServiceCommand([]*os.File{socket}, program, append([]string{"--token-file", c.near.tokens.Path,
			"--log-file", filepath.Join(c.near.dir, "gate.log"), "serve"}, args...)...)
		c.gate.Stderr = t.Output()
		must(t, c.gate.Start())
	}
	c.again(t)
	t.Cleanup(func() {
		_ = c.gate.Process.Kill()
		_ = c.gate.Wait()
		socket.Close()
	})
}

// noteGits notes git's processes while git waits for the trail, before it moves refs.
func (c *commits) noteGits(events ...trail.Event) error {
	if events[0].Event != trail.Moving || !c.way.git {
		return nil
	}
	pidfds := pidfdsIn(c.demo)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gits[events[0].Ref[:strings.LastIndex(events[0].Ref, "/")+1]] = pidfds
	return nil
}

// refs are those of a push, with what each is before and after.
func (c *commits) refs(push string) map[string][2]string {
	return map[string][2]string{push + "new": {noObject, c.tip}, push + "moved": {c.before, c.tip}, push + "gone": {c.tip, noObject}}
}

// send begins a push.
func (c *commits) send(t *testing.T, push string) *net.TCPConn {
	t.Helper()
	var commands []string
	for ref, is := range c.refs(push) {
		if is[0] != noObject {
			path := filepath.Join(c.demo, ref)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, []byte(is[0]+"\n"), 0o644))
		}
		commands = append(commands, is[0]+" "+is[1]+" "+ref)
	}
	if c.token == "" {
		c.token = c.near.issue(t, "demo")
	}
	conn, err := net.Dial("tcp", c.near.address)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(testenv.AWhile))) // if no gate starts, nothing else ends the connection: the listener is still open
	_, err = io.WriteString(conn, pushRequest(c.token, "report-status", commands...))
	must(t, err)
	return conn.(*net.TCPConn)
}

// answer returns whether the client was told that the push's refs have moved.
func answer(conn net.Conn, push string) bool {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return strings.Contains(string(text), "ok "+push+"new")
}

// measure finds out how long a push takes that nobody kills.
func (c *commits) measure(t *testing.T) {
	t.Helper()
	for i := range 5 {
		push := fmt.Sprintf("refs/heads/measured-%d/", i)
		began := time.Now()
		conn := c.send(t, push)
		var moving, moved time.Time
		seen := make(chan struct{})
		go func() {
			defer close(seen)
			moving = c.await(push, trail.Moving, nil)
			moved = c.await(push, trail.Moved, nil)
		}()
		if !answer(conn, push) {
			t.Fatal("a push fails")
		}
		<-seen
		if took := moved.Sub(moving); i == 0 || took < c.committed {
			c.whole, c.committed = time.Since(began), took
		}
	}
}

// await waits until the trail has a line about the ref that a push creates, or over is closed, and
// returns the time.
func (c *commits) await(push, event string, over <-chan struct{}) time.Time {
	for !c.says(push, event) {
		select {
		case <-over:
			return time.Now()
		case <-time.After(50 * time.Microsecond):
		}
	}
	return time.Now()
}

func (c *commits) says(push, event string) bool { return len(c.linesOf(event, push+"new")) > 0 }

// linesOf is [harness.lines], and can also read the trail of a gate that is a process.
func (c *commits) linesOf(event, ref string) (found []trail.Event) {
	if c.logFile == "" {
		return c.lines(event, ref)
	}
	text, _ := readFile(c.logFile)
	for line := range strings.Lines(text) {
		var e trail.Event
		if strings.Contains(line, ref) && json.Unmarshal([]byte(line), &e) == nil && e.Event == event && e.Ref == ref {
			found = append(found, e)
		}
	}
	return found
}

// killOne begins a push and kills it: in one of four cases at any moment, otherwise after the trail
// has said that the refs are to move. It returns in which phase the push was, and whether the
// client was told of success.
func (c *commits) killOne(t *testing.T, push string, kill func(*net.TCPConn)) (phase string, ok bool) {
	t.Helper()
	conn := c.send(t, push)
	over := make(chan struct{})
	go func() {
		defer close(over)
		ok = answer(conn, push)
	}()

	if rand.IntN(4) == 0 {
		time.Sleep(rand.N(c.whole))
	} else {
		c.await(push, trail.Moving, over)
		time.Sleep(rand.N(c.committed + time.Microsecond))
	}
	switch {
	case c.says(push, trail.Moved):
		phase = "after commit"
	case c.says(push, trail.Moving):
		phase = "between prepare and commit"
	default:
		phase = "before prepare"
	}
	kill(conn)
	if c.gate != nil {
		_ = conn.SetLinger(0)
		defer c.again(t)
	}
	conn.Close()
	<-over
	testenv.Eventually(t, "git has ended", func() bool { return len(processesIn(c.demo)) == 0 })
	_ = os.Remove(filepath.Join(c.demo, "packed-refs.lock")) // a killed git leaves it, and no ref can be deleted while it is there
	return phase, ok
}

// end stops the gates, which then have written all lines, and returns what each ref is.
func (c *commits) end(t *testing.T) (present map[string]string) {
	t.Helper()
	if c.gate != nil {
		must(t, c.gate.Process.Signal(syscall.SIGTERM))
		_ = c.gate.Wait()
	}
	stopNow(c.near.Gate)
	stopNow(c.Gate)
	for _, left := range glob(c.demo + "/objects/tmp_objdir-incoming-*") { // the next gate removes it
		os.RemoveAll(left)
	}

	present = map[string]string{}
	for line := range strings.Lines(git(t, c.demo, "for-each-ref", "--format=%(objectname) %(refname)")) {
		object, ref, _ := strings.Cut(strings.TrimSpace(line), " ")
		present[ref] = object
	}
	return present
}

// check compares the refs of a push with the trail, and returns how many have moved.
func (c *commits) check(t *testing.T, push string, present map[string]string, succeeded, gateWasKilled bool) string {
	t.Helper()
	moved := 0
	for ref, was := range c.refs(push) {
		is := cmp.Or(present[ref], noObject)
		hasMoved := is == was[1]
		if hasMoved {
			moved++
		} else if is != was[0] {
			t.Errorf("%s is %s: neither its old nor its new object", ref, is)
		}

		moving, said := c.linesOf(trail.Moving, ref), c.linesOf(trail.Moved, ref)
		switch {
		case hasMoved && len(moving) == 0:
			t.Errorf("%s has moved, but the trail has no line that it is to move", ref)
		case len(said) > 0 && !hasMoved:
			t.Errorf("%s has not moved, but the trail says that it has: %+v", ref, said)
		case hasMoved && len(said) != 1 && !gateWasKilled:
			t.Errorf("%s has moved, but not exactly one line of the trail says so: %+v", ref, said)
		case succeeded && !hasMoved:
			t.Errorf("%s has not moved, but the client was told that it has", ref)
		}
		for _, line := range slices.Concat(moving, said) {
			if line.Old != was[0] || line.New != was[1] {
				t.Errorf("%s: the trail has %+v", ref, line)
			}
		}
	}
	return []string{"none", "some", "some", "all"}[moved]
}
