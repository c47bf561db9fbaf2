// The world that the hook's programs are measured in: a token file, a bundle, living processes.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"terok-gate-hook/store"
)

// world is a token file, a bundle, and the programs to measure with them.
type world struct {
	dir      string
	programs map[string]string
	living   []*exec.Cmd
	process  func(i int) store.Process // of the i-th token
}

// furnish makes the world. The first withProcess tokens are tied to a living process each, and
// the others to a process of another machine.
func (w *world) furnish(tokens, withProcess int) error {
	for _, directory := range []string{"bundle", "rootfs/run", "gate"} {
		if err := os.MkdirAll(filepath.Join(w.dir, directory), 0o755); err != nil {
			return err
		}
	}

	config := fmt.Sprintf(`{"process":{"user":{"uid":0,"gid":0},"env":["PATH=/bin"]},"root":{"path":%q}}`, filepath.Join(w.dir, "rootfs"))
	if err := os.WriteFile(filepath.Join(w.dir, "bundle/config.json"), []byte(config), 0o644); err != nil {
		return err
	}

	elsewhere, err := store.ProcessOf(os.Getpid())
	if err != nil {
		return err
	}
	elsewhere.Machine, elsewhere.Boot = strings.Repeat("0", 32), "4f63a9b4-4d69-4f2a-9d0c-7d3c1d0f8a11"

	var processes []store.Process
	for range withProcess {
		cmd := exec.Command("sleep", "infinity")
		if err := cmd.Start(); err != nil {
			return err
		}
		w.living = append(w.living, cmd)
		p, err := store.ProcessOf(cmd.Process.Pid)
		if err != nil {
			return err
		}
		processes = append(processes, *p)
	}

	w.process = func(i int) store.Process {
		if i < withProcess {
			return processes[i]
		}
		return *elsewhere
	}
	return w.write(tokens)
}

// write writes a token file with this many tokens.
func (w *world) write(tokens int) error {
	content, err := w.content(tokens)
	if err != nil {
		return err
	}
	return w.put(content)
}

// content returns a token file as the hook writes it, with this many tokens and, after them,
// one for each of the containers.
func (w *world) content(tokens int, containers ...string) ([]byte, error) {
	content := bytes.NewBufferString("{")
	for i := range tokens + len(containers) {
		task, container := strconv.Itoa(i), fmt.Sprintf("%064x", i+1)
		if i >= tokens {
			task, container = "bench", containers[i-tokens]
		}

		token, err := store.NewToken()
		if err != nil {
			return nil, err
		}

		value, err := json.MarshalIndent(struct {
			Project   string        `json:"project"`
			Task      string        `json:"task"`
			Scope     string        `json:"scope"`
			Container string        `json:"container"`
			Created   string        `json:"created"`
			Process   store.Process `json:"process"`
		}{"demo", task, "demo", container, "2026-01-02T03:04:05.678Z", w.process(i)}, "  ", "  ")
		if err != nil {
			return nil, err
		}

		if i > 0 {
			content.WriteString(",")
		}
		fmt.Fprintf(content, "\n  %q: %s", string(token), value)
	}

	content.WriteString("\n}\n")
	return content.Bytes(), nil
}

// put writes this content to the token file.
func (w *world) put(content []byte) error {
	file, err := os.OpenFile(w.tokens(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	return file.Sync()
}

func (w *world) tokens() string { return filepath.Join(w.dir, "gate/tokens.json") }

// log returns the path of a log file for the hooks. They get one, since the command install always
// names a log file in its hook definitions.
func (w *world) log() string { return filepath.Join(w.dir, "trail.log") }

func (w *world) end() {
	for _, cmd := range w.living {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	w.living = nil
}

// container starts a process in a mount namespace of its own, and returns the state that a runtime
// would write for it. more is the CLONE_NEW flags of further new namespaces for the process.
func (w *world) container(id string, more uintptr) (state string, pid int, end func(), err error) {
	container := exec.Command("sleep", "infinity")
	container.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | more}
	if err := container.Start(); err != nil {
		return "", 0, nil, err
	}
	state = fmt.Sprintf(`{"ociVersion":"1.0.0","id":%q,"status":"created","bundle":%q,"pid":%d,"annotations":{"terok.project":"demo","terok.task":"bench"}}`,
		id, filepath.Join(w.dir, "bundle"), container.Process.Pid)
	return state, container.Process.Pid, sync.OnceFunc(func() {
		_ = container.Process.Kill()
		_ = container.Wait()
	}), nil
}

// command returns a program to measure: a stage of our hook, or of the Python or shell hook, or a
// program such as bench/floor that takes only the path of the token file.
func (w *world) command(name string) *exec.Cmd {
	switch name {
	case "prestart":
		return exec.Command(w.programs["hook"], "--token-file", w.tokens(), "--log-file", w.log(), "prestart", "--gate-url", "http://gate.example:9418")
	case "poststop":
		return exec.Command(w.programs["hook"], "--token-file", w.tokens(), "--log-file", w.log(), "--lock-timeout", "1m", "poststop")
	case "python prestart", "python poststop":
		return exec.Command("python3", "bench/peers/python/hook.py", w.tokens(), strings.TrimPrefix(name, "python "))
	case "shell prestart", "shell poststop":
		return exec.Command("bench/peers/shell/hook", w.tokens(), strings.TrimPrefix(name, "shell "))
	}
	return exec.Command(w.programs[name], w.tokens())
}

// timed runs a program, and returns the time from its start to its end.
func timed(cmd *exec.Cmd, stdin string) (time.Duration, error) {
	var stderr bytes.Buffer
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if cmd.Stderr != nil {
		cmd.Stderr = io.MultiWriter(cmd.Stderr, &stderr)
	} else {
		cmd.Stderr = &stderr
	}

	in, out, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if _, err := out.WriteString(stdin); err != nil { // less than a pipe holds
		return 0, err
	}
	out.Close()
	cmd.Stdin = in

	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err != nil {
		return took, fmt.Errorf("%v: %w: %s", cmd.Args, err, stderr.String())
	}
	return took, nil
}
