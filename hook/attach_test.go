package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// gateOf answers hooks at the container's control socket. The sockets that it receives stay
// open until the test ends.
func gateOf(t *testing.T, c *container, answer func(r control.Request, socket int) string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(c.base, "run"), 0o755))
	c.hook.GateSocket = filepath.Join(c.base, "run/control")

	c.hook.GateTimeout = time.Minute
	answerAt(t, c.hook.GateSocket, answer)
}

// answerAt answers hooks at a control socket.
func answerAt(t *testing.T, path string, answer func(r control.Request, socket int) string) {
	t.Helper()
	l, err := testenv.ListenForHooks(path)
	must(t, err)
	t.Cleanup(func() { l.Close() })

	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}

			message, rights := make([]byte, control.MessageLimit), make([]byte, unix.CmsgSpace(4))
			n, m, _, _, err := conn.ReadMsgUnix(message, rights)
			if err != nil {
				t.Error(err)
				return
			}

			r, err := control.Parse(message[:n])
			if err != nil {
				t.Error(err)
			}

			messages, err := unix.ParseSocketControlMessage(rights[:m])
			if err != nil || len(messages) != 1 {
				t.Errorf("%d control messages, %v", len(messages), err)
				return
			}
			fds, err := unix.ParseUnixRights(&messages[0])
			if err != nil || len(fds) != 1 {
				t.Errorf("%d descriptors, %v", len(fds), err)
				return
			}
			t.Cleanup(func() { unix.Close(fds[0]) })

			if said := answer(r, fds[0]); said != "" {
				_, _ = conn.Write([]byte(said))
			}
			conn.Close()
		}
	}()
}

const yes = `{"version":1}`

// listens returns where a socket listens, or "". The goroutine of answerAt may call it, so an error
// does not end the goroutine.
func listens(t *testing.T, socket int) string {
	t.Helper()
	accepts, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		t.Error(err)
	}
	if accepts == 0 {
		return ""
	}
	name, err := unix.Getsockname(socket)
	if err != nil {
		t.Error(err)
		return ""
	}
	at := name.(*unix.SockaddrInet4)
	return fmt.Sprintf("%v:%d", net.IP(at.Addr[:]), at.Port)
}

// network is the cookie of a socket's network namespace. The goroutine of answerAt may call it, as
// it may call listens.
func network(t *testing.T, socket int) uint64 {
	t.Helper()
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Error(err)
	}
	return cookie
}

func TestTheGateGetsAListenerInTheContainersNetwork(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		flags            uintptr
		listen, listened string
		withhold         bool
		env              string
		files            []string
	}{
		"with the default settings": {0, "", "127.0.0.1:9418", false,
			"TEROK_PROJECT=demo\nTEROK_TASK=1\nTEROK_GATE_URL=http://127.0.0.1:9418\nCODE_REPO=http://127.0.0.1:9418/demo.git\n" +
				"TEROK_ACCESS=write\nno_proxy=127.0.0.1\nNO_PROXY=127.0.0.1\n" + gitsLines + unquoted,
			[]string{"credential", "gate.env", "gitconfig", "gitidentity"}},
		"in a user namespace of its own": {unix.CLONE_NEWUSER, "", "127.0.0.1:9418", false,
			"TEROK_PROJECT=demo\nTEROK_TASK=1\nTEROK_GATE_URL=http://127.0.0.1:9418\nCODE_REPO=http://127.0.0.1:9418/demo.git\n" +
				"TEROK_ACCESS=write\nno_proxy=127.0.0.1\nNO_PROXY=127.0.0.1\n" + gitsLines + unquoted,
			[]string{"credential", "gate.env", "gitconfig", "gitidentity"}},
		"at another address, the token withheld": {0, "127.0.0.2:80", "127.0.0.2:80", true,
			"TEROK_PROJECT=demo\nTEROK_TASK=1\nTEROK_GATE_URL=http://127.0.0.2:80\nCODE_REPO=http://127.0.0.2:80/demo.git\nTEROK_ACCESS=write\n" +
				"no_proxy=127.0.0.2\nNO_PROXY=127.0.0.2\n" + gitsLines + unquoted,
			[]string{"gate.env", "gitconfig", "gitidentity"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.start(t, unix.CLONE_NEWNET|row.flags)
			c.hook.GateListen, c.hook.WithholdToken = row.listen, row.withhold

			ours, err := newSocket()
			must(t, err)
			defer unix.Close(ours)

			asked, cookie := make(chan control.Request, 2), make(chan uint64, 2)
			gateOf(t, c, func(r control.Request, socket int) string {
				if at := listens(t, socket); at != row.listened {
					t.Errorf("the socket listens at %q", at)
				}
				if network(t, socket) == network(t, ours) {
					t.Error("the socket is in our own network")
				}

				// The hook injects the files first and issues the token last. In between, it asks the gate.
				if _, err := os.Stat(c.inside("/run/terok/gate.env")); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(c.hook.Tokens.Path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the token file is there already: %v", err)
				}

				cookie <- network(t, socket)
				asked <- r
				return yes
			})

			out, err := c.prestart(t, "crun", nil)
			must(t, err)
			entries, err := c.hook.Tokens.Entries()
			must(t, err)
			if len(entries) != 1 {
				t.Fatalf("the token file holds %d tokens", len(entries))
			}
			if diff := cmp.Diff(&store.Attached{Listen: row.listened, Withheld: row.withhold, Network: <-cookie}, entries[0].Gate); diff != "" {
				t.Errorf("the entry says (-want +got):\n%s", diff)
			}

			want := control.Request{Version: 1, Container: out.Container, Process: entries[0].Process, Token: out.Token.Key(), Listen: row.listened, Withheld: row.withhold}
			if diff := cmp.Diff(want, <-asked); diff != "" || len(asked) > 0 {
				t.Errorf("the gate is asked (-want +got):\n%s", diff)
			}

			env, err := os.ReadFile(c.inside("/run/terok/gate.env"))
			must(t, err)
			if !row.withhold {
				row.env = "TEROK_GATE_TOKEN=" + string(out.Token) + "\n" + row.env
			}
			if string(env) != row.env {
				t.Errorf("gate.env is\n%s\nnot\n%s", env, row.env)
			}

			directory, err := os.ReadDir(c.inside("/run/terok"))
			must(t, err)
			var names []string
			for _, f := range directory {
				names = append(names, f.Name())
			}
			if !slices.Equal(names, row.files) {
				t.Errorf("the directory holds %q, not %q", names, row.files)
			}

			process, err := store.Pin(c.pid)
			must(t, err)
			defer process.Close()
			if shared, err := sharesWithHost(process, "net"); shared || err != nil {
				t.Errorf("we are in the container's network: %v", err)
			}
		})
	}
}

func TestTheGateDecidesAboutAnAddressThatIsTaken(t *testing.T) {
	c := prepare(t)
	c.start(t, unix.CLONE_NEWNET)
	asked := make(chan int, 2)
	gateOf(t, c, func(_ control.Request, socket int) string {
		asked <- socket
		return yes
	})
	for range 2 { // the first one is still listening
		_, err := c.prestart(t, "crun", nil)
		must(t, err)
	}
	first, second := <-asked, <-asked
	if at := listens(t, second); at != "" || network(t, first) != network(t, second) {
		t.Errorf("the second socket listens at %q, and is in network %d", at, network(t, second))
	}
}

func TestWithoutTheGatesYesThereIsNoToken(t *testing.T) {
	t.Parallel()
	refuse := func(why, detail string) func(control.Request, int) string {
		return func(control.Request, int) string {
			answer, err := json.Marshal(control.Answer{Version: 1, Refused: control.Refusal(why), Detail: detail})
			if err != nil {
				panic(err)
			}
			return string(answer)
		}
	}

	for _, row := range []struct {
		name            string
		flags           uintptr
		answer          func(control.Request, int) string // nil: there is no gate
		printed, logged string
		of              error
	}{
		{"no gate", unix.CLONE_NEWNET, nil, "the gate does not answer: no such file or directory", "", ErrNoGate},
		{"a gate that says nothing", unix.CLONE_NEWNET, func(control.Request, int) string { return "" }, "the gate does not answer: connection reset by peer", "", ErrNoGate},
		{"a gate that does not answer in time", unix.CLONE_NEWNET, func(control.Request, int) string { select {} }, "the gate does not answer: connection timed out", "", ErrNoGate},
		{"a gate that answers with no JSON", unix.CLONE_NEWNET, func(control.Request, int) string { return canary }, "the gate does not answer: the log says why", "malformed", ErrNoGate},
		{"an address that a neighbour has taken", unix.CLONE_NEWNET, refuse("taken", canary), "refused: " + ErrTaken.Error(), "canary", ErrTaken},
		{"a network shared with a neighbour", unix.CLONE_NEWNET, refuse("shared", canary), "refused: " + ErrNotAlone.Error(), "canary", ErrNotAlone},
		{"what the gate calls its own network", unix.CLONE_NEWNET, refuse("host", canary), "refused: " + ErrHostNetwork.Error(), "canary", ErrHostNetwork},
		{"a version that the gate does not know", unix.CLONE_NEWNET, refuse("version", canary), "the gate refused; see its log for the reason", "canary", control.UnknownVersion},
		{"a reason that we do not know", unix.CLONE_NEWNET, refuse(canary, ""), "the gate refused; see its log for the reason", "canary", nil},
		{"the host's network", 0, refuse("failed", ""), "refused: " + ErrHostNetwork.Error(), "", ErrHostNetwork},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			c.start(t, row.flags)
			if row.answer == nil {
				c.hook.GateSocket = filepath.Join(c.base, "control")
			} else {
				gateOf(t, c, row.answer)
			}
			c.hook.GateTimeout = 300 * time.Millisecond

			out, err := c.prestart(t, "crun", nil)
			printed(t, err, "ask the gate at "+c.hook.GateSocket+" to serve the container's network: "+row.printed, row.logged)
			if row.of != nil && !errors.Is(err, row.of) {
				t.Errorf("the error is not %v", row.of)
			}
			if out.Token != "" {
				t.Error("a token is said to be issued")
			}
			if _, err := os.Stat(c.hook.Tokens.Path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a token file: %v", err)
			}
		})
	}
}

// The gate may be restarting, or another listener may have the address for a moment.
func TestTheHookAsksAgainForAWhile(t *testing.T) {
	t.Parallel()
	c := prepare(t)
	c.start(t, unix.CLONE_NEWNET)
	answers := make(chan string, 3)
	for _, answer := range []string{``, `{"version":1,"refused":"taken"}`, yes} {
		answers <- answer
	}
	gateOf(t, c, func(control.Request, int) string { return <-answers })
	_, err := c.prestart(t, "crun", nil)
	must(t, err)
	if len(answers) > 0 {
		t.Errorf("the hook did not wait for %d answers", len(answers))
	}
}

func TestAWithheldTokenNeedsANetworkOfTheContainersOwn(t *testing.T) {
	for path, alone := range map[string]bool{
		"":                    true,
		"/proc/4711/ns/net":   false,
		"/var/run/netns/mine": false,
		"/run/user/1000/netns/netns-6ba7b810-9dad-11d1-80b4-00c04fd430c8": true,
		"/run/netns/netns-6ba7b810-9dad-11d1-80b4-00c04fd430c8":           true,
		"/" + canary: false,
	} {
		t.Run(path, func(t *testing.T) {
			c := prepare(t)
			c.start(t, unix.CLONE_NEWNET)
			gateOf(t, c, func(control.Request, int) string { return yes })

			c.configure(t, func(config map[string]any) {
				namespace := map[string]any{"type": "network"}
				if path != "" {
					namespace["path"] = path
				}
				config["linux"].(map[string]any)["namespaces"] = []any{map[string]any{"type": "mount"}, namespace}
			})

			_, err := c.prestart(t, "crun", nil) // with a token, a shared network is fine
			must(t, err)

			c = prepareAgain(t, c)
			c.hook.WithholdToken = true
			_, err = c.prestart(t, "crun", nil)
			if alone {
				must(t, err)
			} else {
				printed(t, err, "refused: "+ErrNotAlone.Error(), path)
			}
		})
	}
}

// prepareAgain returns the same container, as if the hook had not run for it.
func prepareAgain(t *testing.T, c *container) *container {
	t.Helper()
	config := filepath.Join(c.bundle, "config.json")
	content, err := os.ReadFile(config)
	must(t, err)
	gateSocket := c.hook.GateSocket
	c.end()
	c = prepare(t)
	c.hook.GateSocket, c.hook.GateTimeout = gateSocket, time.Minute
	c.start(t, unix.CLONE_NEWNET)
	old := readJSONText(t, content)
	old["root"] = map[string]any{"path": c.rootfs}
	writeJSON(t, filepath.Join(c.bundle, "config.json"), old)
	return c
}

func readJSONText(t *testing.T, content []byte) (value map[string]any) {
	t.Helper()
	must(t, json.Unmarshal(content, &value))
	return value
}

func TestWithoutAProcessThereIsNoNetworkToServe(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	c := prepare(t)
	c.hook.GateSocket = "/run/gate/control"
	_, err := c.hook.Prestart(c.state(t, "crun/prestart.json", nil))
	if err == nil || !strings.HasSuffix(err.Error(), "the container has no process") {
		t.Errorf("the error is %v", err)
	}
	left, err := filepath.Glob(os.Getenv("XDG_RUNTIME_DIR") + "/*/*")
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestTheGatesHostNeedsNoProxy(t *testing.T) {
	for _, row := range []struct {
		env   []string
		lower string
		upper string
	}{
		{nil, "127.0.0.1", "127.0.0.1"},
		{[]string{"no_proxy=a.example,.b"}, "a.example,.b,127.0.0.1", "a.example,.b,127.0.0.1"},
		{[]string{"NO_PROXY=a, b"}, "a,b,127.0.0.1", "a,b,127.0.0.1"},
		{[]string{"no_proxy=a", "NO_PROXY=b"}, "a,127.0.0.1", "b,127.0.0.1"},
		{[]string{"no_proxy=", "NO_PROXY=b"}, "127.0.0.1", "b,127.0.0.1"},
		{[]string{"no_proxy=a,127.0.0.1"}, "a,127.0.0.1", "a,127.0.0.1"},
		{[]string{"no_proxy=*"}, "*,127.0.0.1", "*,127.0.0.1"},
		{[]string{"no_proxy=a,$(reboot),`b`,10.0.0.0/8,[::1],c\nd"}, "a,10.0.0.0/8,[::1],127.0.0.1", "a,10.0.0.0/8,[::1],127.0.0.1"},
	} {
		want := []variable{{"no_proxy", row.lower}, {"NO_PROXY", row.upper}}
		if got := noProxyVariables(row.env, "127.0.0.1"); !slices.Equal(want, got) {
			t.Errorf("of %q comes %q, not %q", row.env, got, want)
		}
	}
}

// Root attaches only what root's hooks have handed over: a user who can write the
// token file could name any process there.
func TestTheHooksRecordWhatTheyHandedOver(t *testing.T) {
	c := prepare(t)
	c.start(t, unix.CLONE_NEWNET)
	gateOf(t, c, func(control.Request, int) string { return yes })

	handedOver := func() (keys []string) {
		t.Helper()
		living, err := c.hook.HandedOver()
		must(t, err)
		for _, e := range living {
			keys = append(keys, string(e.Token))
		}
		return keys
	}

	if got := handedOver(); got != nil {
		t.Errorf("at first there is %q", got)
	}

	out, err := c.prestart(t, "crun", nil)
	must(t, err)

	_, err = c.hook.Tokens.Issue(store.Entry{
		Token: "terok-g-00000000000000000000000000000000", Grant: store.Grant{Project: "demo", Task: "1"}, Container: "forged",
		Process: mustProcess(t, os.Getpid()), Gate: &store.Attached{Listen: GateListen},
	})
	must(t, err)

	if got := handedOver(); !slices.Equal(got, []string{out.Token.Key()}) {
		t.Errorf("there is %q", got)
	}

	// The next life has a record of its own, which a late poststop leaves alone.
	state := fmt.Sprintf(`{"id": %q}`, out.Container)
	next, err := c.prestart(t, "crun", nil)
	must(t, err)
	_, err = c.hook.Poststop(strings.NewReader(state))
	must(t, err)
	if got := handedOver(); !slices.Contains(got, next.Token.Key()) {
		t.Errorf("there is %q", got)
	}

	records := control.HandedOver(c.hook.GateSocket)
	must(t, os.WriteFile(filepath.Join(records, out.Container+"0-"+out.Token.Fingerprint()), nil, 0o600)) // another container's
	c.end()
	_, err = c.hook.Poststop(strings.NewReader(state))
	must(t, err)

	left, err := os.ReadDir(records)
	must(t, err)
	if len(left) != 1 || left[0].Name() != out.Container+"0-"+out.Token.Fingerprint() {
		t.Errorf("after the container has stopped, the records are %q", left)
	}

	if _, err := c.hook.HandedOver(); err == nil {
		t.Error("a record that is empty is read")
	}
}

func TestTheRecordsOfAContainerThatHadNoPoststopAreRemoved(t *testing.T) {
	c := prepare(t)
	c.start(t, unix.CLONE_NEWNET)
	gateOf(t, c, func(control.Request, int) string { return yes })
	_, err := c.prestart(t, "crun", nil)
	must(t, err)
	c.end()
	if living, err := c.hook.HandedOver(); len(living) > 0 || err != nil {
		t.Errorf("there are %v, %v", living, err)
	}
	if left, err := os.ReadDir(control.HandedOver(c.hook.GateSocket)); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRecordsThatAnotherUserCanWriteAreNotBelieved(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"another user's":  func(dir string) error { return os.Chown(dir, 12345, -1) },
		"writable by all": func(dir string) error { return os.Chmod(dir, 0o777) },
		"a symbolic link": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-moved"), os.Symlink(dir+"-moved", dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := prepare(t)
			c.start(t, unix.CLONE_NEWNET)
			gateOf(t, c, func(control.Request, int) string { return yes })
			_, err := c.prestart(t, "crun", nil)
			must(t, err)
			must(t, spoil(control.HandedOver(c.hook.GateSocket)))
			if living, err := c.hook.HandedOver(); len(living) > 0 || err == nil {
				t.Errorf("the living containers are %v, %v", living, err)
			}
			if _, err := c.prestart(t, "crun", nil); err == nil {
				t.Error("a container starts, though it could not be attached again")
			}
		})
	}
}

func mustProcess(t *testing.T, pid int) *store.Process {
	t.Helper()
	process, err := store.ProcessOf(pid)
	must(t, err)
	return process
}
