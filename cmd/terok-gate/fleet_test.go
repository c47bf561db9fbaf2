package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Every command of docs/fleet.md is run, with a directory for each machine.
func TestThePageOnManyMachinesWorks(t *testing.T) {
	testenv.Need(t, "git", "openssl")
	page, err := os.ReadFile(filepath.Join(repository, "docs/fleet.md"))
	must(t, err)
	dir := t.TempDir()
	ports := map[string]string{"repos": freePort(t), "host-a": freePort(t), "host-b": freePort(t)}
	states := map[string]string{} // the variables that a machine's shell has set

	ran := 0
	for _, line := range regexp.MustCompile(`(?m)^(ca|repos|host-a|host-b)\$ (.*)$`).FindAllStringSubmatch(string(page), -1) {
		machine := line[1]
		home := filepath.Join(dir, machine)
		must(t, os.MkdirAll(home, 0o700))

		// All machines are this one.
		text := strings.NewReplacer(
			"https://repos:9419", "https://localhost:"+ports["repos"], ":9419", "127.0.0.1:"+ports["repos"],
			"127.0.0.1:9418", "127.0.0.1:"+ports[machine], `"subjectAltName=DNS:$m"`, `"subjectAltName=DNS:$m,DNS:localhost"`,
		).Replace(line[2])
		text = regexp.MustCompile(`^scp (.*) (repos|host-.):$`).ReplaceAllString(text, "mkdir -p ../$2 && cp $1 ../$2")

		command, background := strings.CutSuffix(text, " &")
		cmd := exec.Command("sh", "-c", states[machine]+command)
		cmd.Dir = home
		cmd.Env = append(os.Environ(), "HOME="+home, "TEROK_GATE_TOKEN_FILE="+filepath.Join(home, "tokens.json"), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
			"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example")
		ran++
		if background {
			cmd.Args[2] = "exec " + command
			must(t, cmd.Start())
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			testenv.Eventually(t, machine+" serves", func() bool {
				conn, err := net.Dial("tcp", "127.0.0.1:"+ports[machine])
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
			continue
		}
		if name, value, sets := strings.Cut(text, "=$("); sets {
			cmd.Args[2] = strings.TrimSuffix(value, ")")
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s$ %s: %v", machine, text, err)
			}
			states[machine] = fmt.Sprintf("%s=%s\n", name, strings.TrimSpace(string(out)))
			continue
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s$ %s: %v\n%s", machine, text, err, out)
		}
	}
	if ran < 20 {
		t.Errorf("the page has %d commands that were found", ran)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}
