package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// The stories in testdata/gate use these beside testscript's own commands:
//
//	token project file        issues a token and writes it to a file
//	revoke project            revokes the project's token
//	reached                   waits until the gate at $ADDRESS takes connections
//	get file socket path      asks for a path through a unix socket, and writes the answer
//	listens socket            waits until a gate listens for hooks at a socket
//	stop                      tells the gate in the background to stop; after it, use testscript's wait
func TestGateStories(t *testing.T) {
	testenv.Need(t, "git")
	tokens := func(ts *testscript.TestScript) store.File { return store.File{Path: ts.MkAbs("tokens/tokens.json")} }
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/gate",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// A port where no process listens. The story's gate should get it before
			// another process does.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()

			env.Setenv("ADDRESS", l.Addr().String())
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("TEROK_GATE_TOKEN_FILE", filepath.Join(env.WorkDir, "tokens/tokens.json"))
			env.Setenv("TEROK_GATE_LOG_FILE", filepath.Join(env.WorkDir, "trail.log"))
			env.Setenv("GIT_TERMINAL_PROMPT", "0")
			env.Setenv("GIT_CONFIG_NOSYSTEM", "1")

			for _, name := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+name+"_NAME", "A")
				env.Setenv("GIT_"+name+"_EMAIL", "a@example")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"token": func(ts *testscript.TestScript, _ bool, args []string) {
				token, err := tokens(ts).CreateToken(args[0], "1")
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(token), 0o600))
				ts.Setenv("TOKEN", string(token))
			},
			"revoke": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := tokens(ts).RevokeTokenForTask(args[0], "1")
				ts.Check(err)
			},

			"reached": func(ts *testscript.TestScript, _ bool, _ []string) {
				if !testenv.Wait(func() bool {
					conn, err := net.Dial("tcp", ts.Getenv("ADDRESS"))
					if err == nil {
						conn.Close()
					}
					return err == nil
				}) {
					ts.Fatalf("the gate cannot be reached")
				}
			},
			"listens": func(ts *testscript.TestScript, _ bool, args []string) {
				if !testenv.Wait(func() bool {
					conn, err := net.Dial("unixpacket", ts.MkAbs(args[0]))
					if err == nil {
						conn.Close()
					}
					return err == nil
				}) {
					ts.Fatalf("no gate listens for hooks at the socket")
				}
			},

			"get": func(ts *testscript.TestScript, _ bool, args []string) {
				conn, err := net.Dial("unix", ts.MkAbs(args[1]))
				ts.Check(err)
				defer conn.Close()
				_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n", args[2])
				ts.Check(err)
				answer, err := io.ReadAll(conn)
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), answer, 0o600))
			},
			"stop": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, cmd := range ts.BackgroundCmds() {
					ts.Check(cmd.Process.Signal(syscall.SIGTERM))
				}
			},
		},
	})
}

// A service manager passes sockets, and hears that the gate is ready, that it lives, and
// that it stops (sd_listen_fds(3), sd_notify(3)).
func TestAServiceManagerPassesSocketsAndHearsOfTheGate(t *testing.T) {
	testenv.Need(t, "git")
	dir := t.TempDir()
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	socket, address, err := testenv.ListenForClients()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	program, err := exec.LookPath("terok-gate")
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.ServiceCommand([]*os.File{socket}, program, "--token-file", dir+"/tokens.json", "--log-file", dir+"/trail.log", "serve", "--repos", dir)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notified.LocalAddr().String(), "WATCHDOG_USEC=100000")
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}

	hear := func(want string) {
		t.Helper()
		message := make([]byte, 100)
		for {
			n, err := notified.Read(message)
			if err != nil {
				t.Fatal(err)
			}
			if string(message[:n]) == want {
				return
			}
		}
	}

	hear("READY=1")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /demo.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
	if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "HTTP/1.1 401 Unauthorized\r\n" {
		t.Errorf("the gate answers %q", line)
	}

	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the gate ends with %v: %s", err, log.String())
	}
}
