// The repositories that the gate is measured on, and the servers that it is measured against.

package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"terok-gate-hook/store"
)

// house is a directory of repositories with all that serves them: the gate, nginx with
// fcgiwrap, a Python gate like the one that ours replaces, and git alone (the floor).
type house struct {
	dir, repos, control string
	tokens              store.File
	token               string            // for clients of the small repository
	addresses           map[string]string // of the servers
	gate, forward       *exec.Cmd
	fcgiwrap            *exec.Cmd
	ends                []func()
}

// The repositories.
const (
	small = "small" // a hundred commits, fifty branches
	large = "large" // 200 files of a MiB each, which nothing compresses
	empty = "empty"
)

const largeMiB = 200

// servers take turns in this order.
var servers = []string{"floor", "gate", "nginx", "python"}

// open makes the repositories, in memory, and starts the servers.
func (w *world) open() (h *house, err error) {
	h = &house{addresses: map[string]string{}}
	defer func() {
		if err != nil {
			h.close()
		}
	}()

	if h.dir, err = os.MkdirTemp("/dev/shm", "bench"); err != nil {
		return h, err
	}
	h.ends = append(h.ends, func() { os.RemoveAll(h.dir) })

	h.repos, h.control = filepath.Join(h.dir, "repos"), filepath.Join(h.dir, "control", "gate")
	h.tokens = store.File{Path: w.tokens()}
	if err := w.furnish(10, 0); err != nil {
		return h, err
	}

	for name, fill := range map[string]func(string) error{small: fillSmall, large: fillLarge, empty: func(string) error { return nil }} {
		path := filepath.Join(h.repos, name+".git")
		if err := initBare(path); err != nil {
			return h, err
		}
		if err := fill(path); err != nil {
			return h, err
		}
	}

	if h.token, err = h.issue(store.Entry{Grant: store.Grant{Project: small, Task: "bench"}}); err != nil {
		return h, err
	}

	for name, start := range map[string]func(address string, w *world) error{"gate": h.startGate, "nginx": h.startNginx} {
		if h.addresses[name], err = freeAddress(); err != nil {
			return h, err
		}
		if err := start(h.addresses[name], w); err != nil {
			return h, fmt.Errorf("%s: %w", name, err)
		}

		if err := serves(h.addresses[name]); err != nil {
			return h, fmt.Errorf("%s: %w", name, err)
		}
	}
	return h, h.startPython()
}

func (h *house) close() {
	for i := len(h.ends) - 1; i >= 0; i-- {
		h.ends[i]()
	}
}

// issue issues a token, and returns it.
func (h *house) issue(e store.Entry) (string, error) {
	token, err := store.NewToken()
	if err != nil {
		return "", err
	}
	e.Token = token
	_, err = h.tokens.Issue(e)
	return string(token), err
}

// start starts a server. When the house is closed, the server and all processes that it has
// started end.
func (h *house) start(cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(h.dir, fmt.Sprintf("%d-%s.log", len(h.ends), filepath.Base(cmd.Path))))
	if err != nil {
		return err
	}
	defer log.Close()
	if cmd.Stderr = log; cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.ends = append(h.ends, func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		late := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer late.Stop()
		_ = cmd.Wait()
	})
	return nil
}

func (h *house) startGate(address string, w *world) error {
	h.gate = exec.Command(w.programs["gate"], "--token-file", h.tokens.Path, "--log-file", filepath.Join(h.dir, "trail.log"),
		"serve", "--repos", h.repos, "--control", h.control, "--listen", address)
	return h.start(h.gate)
}

func (h *house) startNginx(address string, _ *world) error {
	config, err := os.ReadFile("bench/peers/nginx/nginx.conf")
	if err != nil {
		return err
	}
	libexec, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return err
	}

	if h.addresses["service"], err = freeAddress(); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(h.dir, "service"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.dir, "service", "large"), nil, 0o644); err != nil {
		return err
	}

	filled := strings.NewReplacer("{dir}", h.dir, "{address}", address, "{service}", h.addresses["service"], "{repos}", h.repos,
		"{backend}", filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend")).Replace(string(config))
	path := filepath.Join(h.dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(filled), 0o644); err != nil {
		return err
	}

	if err := os.Chmod(h.dir, 0o755); err != nil { // nginx's workers run as another user
		return err
	}

	// fcgiwrap gets one process for each client that asks at the same time.
	h.fcgiwrap = exec.Command("fcgiwrap", "-c", fmt.Sprint(atOnce), "-s", "unix:"+filepath.Join(h.dir, "fcgiwrap"))
	if err := h.start(h.fcgiwrap); err != nil {
		return err
	}

	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = os.Chmod(filepath.Join(h.dir, "fcgiwrap"), 0o777); err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}

	return h.start(exec.Command("nginx", "-c", path, "-e", filepath.Join(h.dir, "nginx.log")))
}

func (h *house) startPython() error {
	python := exec.Command("python3", "gate/testdata/retired.py", "serve", h.tokens.Path, "project", h.repos)
	in, err := python.StdinPipe()
	if err != nil {
		return err
	}
	h.ends = append(h.ends, func() { in.Close() })

	out, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()

	python.Stdout = ours
	err = h.start(python)
	ours.Close()
	if err != nil {
		return err
	}

	port, err := bufio.NewReader(out).ReadString('\n')
	h.addresses["python"] = "127.0.0.1:" + strings.TrimSpace(port)
	return err
}

// serves waits until something listens at an address.
func serves(address string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("nothing listens at %s: %w", address, err)
		}
	}
}

// freeAddress returns an address without a listener.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// url returns a project's URL at a server. For the floor, which is git alone, it is a file://
// URL: git does the same work, over a pipe instead of the network.
func (h *house) url(server, token, project string) string {
	if server == "floor" {
		return "file://" + filepath.Join(h.repos, project+".git")
	}
	return "http://" + token + ":@" + h.addresses[server] + "/" + project + ".git"
}

func basic(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(token+":"))
}

// git returns a git command of a user without any configuration.
func git(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}
	return cmd
}

// done runs a command, and returns an error with its output if it fails.
func done(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
	}
	return nil
}

func initBare(path string) error {
	return errors.Join(done(git("/", "init", "--quiet", "--bare", "--initial-branch=main", path)),
		// The gate makes git check pushed objects. With this setting, git does so for the other
		// servers, too.
		done(git(path, "config", "receive.fsckObjects", "true")))
}

func fillSmall(repo string) error {
	var history strings.Builder
	for i := range 100 {
		fmt.Fprintf(&history, "commit refs/heads/main\ncommitter A <a@example> %d +0000\ndata 6\ncommit\nM 644 inline file-%d\ndata 4\n%04d\n\n",
			1700000000+i, i%20, i)
		if i < 50 {
			fmt.Fprintf(&history, "reset refs/heads/branch-%d\nfrom refs/heads/main\n\n", i)
		}
	}
	cmd := git(repo, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(history.String())
	return done(cmd)
}
