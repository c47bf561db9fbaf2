package gate_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
)

// fastGate builds the gate's program with a clock that is an hour fast. Go's programs read the clock
// without a system call, so nothing outside of them can change what they read.
var fastGate = sync.OnceValues(func() (path string, err error) {
	ordinary, err := terokGate()
	if err != nil {
		return "", err
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	text, err := readFile(source)
	if err != nil {
		return "", err
	}

	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(text, now) {
		return "", fmt.Errorf("%s has no %q", source, now)
	}
	dir := filepath.Dir(ordinary)
	changed, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]any{"Replace": map[string]string{source: changed}})
	if err != nil {
		return "", err
	}
	for path, content := range map[string][]byte{changed: []byte(strings.Replace(text, now, now+"\tsec += 60 * 60\n", 1)), overlay: replaced} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return "", err
		}
	}

	path = filepath.Join(dir, "terok-gate-fast")
	build := exec.Command("go", "build", "-overlay", overlay, "-tags", "urfave_cli_no_docs", "-o", path, "terok-gate-hook/cmd/terok-gate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// If machines disagree about the time, this affects only certificates.
func TestGatesWhoseClocksAreAnHourApart(t *testing.T) {
	const soon = 10 * time.Minute
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(soon) }
	ends := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(soon) }
	const none, repos, host = "", "repos", "host-a"

	for name, row := range map[string]struct {
		fast   string // the gate whose clock is fast
		of     string // the gate whose certificate is changed
		edit   func(*x509.Certificate)
		served bool
	}{
		"the host's clock is fast":                                                 {host, none, nil, true},
		"the repository gate's clock is fast":                                      {repos, none, nil, true},
		"no clock is fast, and the host's certificate is not valid yet":            {none, host, early, false},
		"no clock is fast, and the repository gate's certificate is not valid yet": {none, repos, early, false},
		"to the repository gate's fast clock, the host's certificate is valid":     {repos, host, early, true},
		"to the host's fast clock, the repository gate's certificate is valid":     {host, repos, early, true},
		"no clock is fast, and the host's certificate ends soon":                   {none, host, ends, true},
		"to the repository gate's fast clock, the host's certificate has ended":    {repos, host, ends, false},
		"to the host's fast clock, the repository gate's certificate has ended":    {host, repos, ends, false},
		"to the host's fast clock, its own certificate has ended":                  {host, host, ends, true},
		"to the repository gate's fast clock, its own certificate has ended":       {repos, repos, ends, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := startMachines(t)
			for _, gate := range []string{repos, host} {
				m.certify(t, gate, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(-3*time.Hour), time.Now().Add(3*time.Hour)
					if gate == row.of {
						row.edit(c)
					}
				})
			}
			if row.fast != none {
				fast, err := fastGate()
				must(t, err)
				m.programs = map[string]string{row.fast: fast}
			}
			m.startRepos(t)
			m.startHost(t)

			demo, work := m.path("demo.git"), m.path("work")
			git(t, m.dir, "init", "--quiet", "--bare", "--initial-branch=main", demo)
			token, err := m.tokens.CreateToken("demo", "1")
			must(t, err)
			url := "http://" + string(token) + ":@127.0.0.1:9418/demo.git"
			if out, err := m.git("clone", "--quiet", url, work).CombinedOutput(); (err == nil) != row.served {
				t.Fatalf("clone: %v: %s", err, out)
			} else if !row.served {
				if !strings.Contains(string(out), "502") {
					t.Errorf("git says %s", out)
				}
				return
			}

			git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
			mustRun(t, m.git("-C", work, "push", "--quiet", "origin", "main"))
			if there := git(t, demo, "rev-parse", "main"); there != git(t, work, "rev-parse", "main") {
				t.Errorf("main is %s", there)
			}
			for _, gate := range []string{repos, host} {
				m.checkClock(t, gate, gate == row.fast)
			}

			_, err = m.tokens.RevokeTokenForTask("demo", "1")
			must(t, err)
			if out, err := m.git("-C", work, "fetch").CombinedOutput(); err == nil || !strings.Contains(string(out), "403") {
				t.Errorf("with a token that was revoked: %v: %s", err, out)
			}
		})
	}
}

// checkClock checks that a gate writes its own clock's time into its trail.
func (m *machines) checkClock(t *testing.T, gate string, fast bool) {
	t.Helper()
	var pushed trail.Event
	testenv.Eventually(t, gate+" has logged the push", func() bool {
		lines, _ := readFile(m.path(gate + ".log"))
		for line := range strings.Lines(lines) {
			var e trail.Event
			if json.Unmarshal([]byte(line), &e) == nil && e.Event == trail.Push {
				pushed = e
			}
		}
		return pushed.Event != ""
	})
	if ahead := time.Until(pushed.Time) > 30*time.Minute; ahead != fast {
		t.Errorf("%s has logged the push at %v, now it is %v", gate, pushed.Time, time.Now())
	}
}
