// bench measures whole processes side by side: prestart and poststop of the hook
// against the floor, a program that makes only the system calls that a durable change
// needs (bench/floor). Run it as root, on a machine that does nothing else:
//
//	go run ./bench -tokens 10,1000,10000,100000 -rounds 40
//	go run ./bench -tokens 1000 -living 1000
//	go run ./bench -tokens 1000 -crowd 200   # so many hooks at once
//	go run ./bench -tokens 10000 -watch 20s  # reap --watch beside two writers a second
//
// Each round starts every program once, in turn, so that whatever the machine does
// meanwhile meets all of them. What it prints are medians of the time from start to end
// and, for a machine that does something else, of processor time, and ratios to the
// floor's.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"terok-gate-hook/store"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	tokens := flag.String("tokens", "10,1000,10000,100000", "`sizes` of the token file")
	living := flag.Int("living", 0, "how many of them are tied to a living process each; the others to one of another machine")
	rounds := flag.Int("rounds", 30, "how often each program runs")
	crowd := flag.Int("crowd", 0, "measure so many at once instead")
	watch := flag.Duration("watch", 0, "measure reap --watch for so long instead")
	binary := flag.String("hook", "", "the hook to measure; default: one built from this module")
	flag.Parse()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs := map[string]string{"hook": "terok-gate-hook", "floor": "terok-gate-hook/bench/floor"}
	for name, source := range programs {
		if name == "hook" && *binary != "" {
			programs[name] = *binary
			continue
		}
		programs[name] = filepath.Join(dir, name)
		if err := build(programs[name], source); err != nil {
			return err
		}
	}
	if *crowd == 0 && *watch == 0 {
		fmt.Printf("%8s %21s %21s %21s %10s %21s %10s\n", "tokens", "", "floor", "prestart", "/ floor", "poststop", "/ floor")
	}
	for _, word := range strings.Split(*tokens, ",") {
		n, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		w := world{dir: filepath.Join(dir, word), programs: programs}
		if err := w.furnish(n, min(n, *living)); err != nil {
			return err
		}
		if *crowd > 0 || *watch > 0 {
			if *crowd > 0 {
				err = w.crowd(n, *crowd, *rounds)
			} else {
				err = w.watch(n, *watch)
			}
			w.end()
			if err != nil {
				return err
			}
			continue
		}
		m, err := w.measure(*rounds)
		w.end()
		if err != nil {
			return err
		}
		line := func(what string, of func(spent) time.Duration) {
			floor, prestart, poststop := m.median("floor", of), m.median("prestart", of), m.median("poststop", of)
			fmt.Printf("%8d %21s %18.2f ms %18.2f ms %10.2f %18.2f ms %10.2f\n", n, what,
				ms(floor), ms(prestart), ratio(prestart, floor), ms(poststop), ratio(poststop, floor))
		}
		line("from start to end", func(s spent) time.Duration { return s.wall })
		line("processor", func(s spent) time.Duration { return s.cpu })
	}
	return nil
}

// build builds a program of this module, given by its import path, as it is released.
func build(binary, program string) error {
	build := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w", "-o", binary, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build.Args, err, out)
	}
	return nil
}

func ms(d time.Duration) float64           { return float64(d) / 1e6 }
func ratio(d, floor time.Duration) float64 { return float64(d) / float64(floor) }

// world is a token file with a bundle.
type world struct {
	dir      string
	programs map[string]string
	living   []*exec.Cmd
	process  func(i int) store.Process // of the i-th token
}

func (w *world) furnish(tokens, living int) error {
	for _, folder := range []string{"bundle", "rootfs/run", "gate"} {
		if err := os.MkdirAll(filepath.Join(w.dir, folder), 0o755); err != nil {
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
	for range living {
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
		if i < living {
			return processes[i]
		}
		return *elsewhere
	}
	return w.write(tokens)
}

// write writes a token file as we do.
func (w *world) write(tokens int) error {
	content := bytes.NewBufferString("{")
	for i := range tokens {
		token, err := store.NewToken()
		if err != nil {
			return err
		}
		value, err := json.MarshalIndent(struct {
			Project   string        `json:"project"`
			Task      string        `json:"task"`
			Scope     string        `json:"scope"`
			Container string        `json:"container"`
			Created   string        `json:"created"`
			Process   store.Process `json:"process"`
		}{"demo", strconv.Itoa(i), "demo", fmt.Sprintf("%064x", i+1), "2026-01-02T03:04:05.678Z", w.process(i)}, "  ", "  ")
		if err != nil {
			return err
		}
		if i > 0 {
			content.WriteString(",")
		}
		fmt.Fprintf(content, "\n  %q: %s", string(token), value)
	}
	content.WriteString("\n}\n")
	file, err := os.OpenFile(w.tokens(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(content.Bytes()); err != nil {
		return err
	}
	return file.Sync()
}

func (w *world) tokens() string { return filepath.Join(w.dir, "gate/tokens.json") }

func (w *world) end() {
	for _, cmd := range w.living {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// spent is what one process took.
type spent struct{ wall, cpu time.Duration }

// measured is what the processes of each program took.
type measured map[string][]spent

func (m measured) median(program string, of func(spent) time.Duration) time.Duration {
	var all []time.Duration
	for _, s := range m[program] {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (w *world) measure(rounds int) (measured, error) {
	m := measured{}
	for i := range rounds {
		if err := w.round(m, fmt.Sprintf("c0ffee%04d", i)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (w *world) round(m measured, id string) error {
	state, end, err := w.container(id)
	if err != nil {
		return err
	}
	defer end()
	for _, name := range []string{"floor", "prestart", "poststop"} {
		if name == "poststop" {
			end()
		}
		s, err := timed(w.command(name), state)
		if err != nil {
			return err
		}
		m[name] = append(m[name], s)
	}
	return nil
}

// container starts a process in a mount namespace of its own, and returns the state that
// a runtime would write of it.
func (w *world) container(id string) (state string, end func(), err error) {
	container := exec.Command("sleep", "infinity")
	container.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := container.Start(); err != nil {
		return "", nil, err
	}
	state = fmt.Sprintf(`{"ociVersion":"1.0.0","id":%q,"status":"created","bundle":%q,"pid":%d,"annotations":{"terok.project":"demo","terok.task":"1"}}`,
		id, filepath.Join(w.dir, "bundle"), container.Process.Pid)
	return state, sync.OnceFunc(func() {
		_ = container.Process.Kill()
		_ = container.Wait()
	}), nil
}

// command is a program that is measured, or a stage of the hook.
func (w *world) command(name string) *exec.Cmd {
	switch name {
	case "prestart":
		return exec.Command(w.programs["hook"], "--token-file", w.tokens(), "prestart", "--gate-url", "http://gate.example:9418")
	case "poststop":
		return exec.Command(w.programs["hook"], "--token-file", w.tokens(), "poststop")
	}
	return exec.Command(w.programs[name], w.tokens())
}

// timed runs a program from its start to its end.
func timed(cmd *exec.Cmd, stdin string) (spent, error) {
	var stderr bytes.Buffer
	cmd.Env = []string{}
	if cmd.Stderr != nil {
		cmd.Stderr = io.MultiWriter(cmd.Stderr, &stderr)
	} else {
		cmd.Stderr = &stderr
	}
	in, out, err := os.Pipe()
	if err != nil {
		return spent{}, err
	}
	defer in.Close()
	if _, err := out.WriteString(stdin); err != nil { // less than a pipe holds
		return spent{}, err
	}
	out.Close()
	cmd.Stdin = in
	start := time.Now()
	err = cmd.Run()
	s := spent{wall: time.Since(start)}
	if err != nil {
		return s, fmt.Errorf("%v: %w: %s", cmd.Args, err, stderr.String())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}
