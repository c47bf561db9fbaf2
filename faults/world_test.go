package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// situation describes the files and processes that a stage of the hook finds.
type situation struct {
	name      string
	stage     string // prestart or poststop
	byHand    bool   // no container process: the env file is on the host
	directory string // of the token file: absent, empty, or full of other tokens
	gate      bool   // there is one, which serves the container in its own network
}

var situations = []situation{
	{name: "prestart, the first token of all", stage: "prestart", directory: "absent"},
	{name: "prestart, the first token in a user's directory", stage: "prestart", directory: "empty"},
	{name: "prestart, among other tokens", stage: "prestart", directory: "full"},
	{name: "prestart with a gate in the network, among other tokens", stage: "prestart", directory: "full", gate: true},
	{name: "prestart by hand, among other tokens", stage: "prestart", directory: "full", byHand: true},
	{name: "poststop, among other tokens", stage: "poststop", directory: "full"},
	{name: "poststop by hand, among other tokens", stage: "poststop", directory: "full", byHand: true},
}

// The owner of the token file and its directory, who is not the user that runs the hook.
const ownerUID, ownerGID = 1234, 55

// world is one copy of a situation, in which a test injects faults.
type world struct {
	situation
	dir       string // holds all of the rest
	tokens    string // the token file
	id        string // of the container
	container *process
	before    map[string]any // what the token file says
	content   []byte         // nil: there is no token file
	stat      unix.Stat_t

	// If blind, the stage cannot tell living processes from dead ones. So it may keep an
	// orphan for the next sweep, and poststop, which spares only tokens of processes that
	// surely live, may spare none.
	blind bool
}

// process is a program that does nothing until it is killed.
type process struct {
	cmd  *exec.Cmd
	once sync.Once
}

// asleep starts a process, with flags of clone(2).
func asleep(flags uintptr) (*process, error) {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	return &process{cmd: cmd}, cmd.Start()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// end kills the process and collects it.
func (p *process) end() {
	p.once.Do(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
}

// Lives that entries of the token file can be tied to.
var (
	aLife = sync.OnceValues(func() (*store.Process, error) { // goes on until the tests are over
		p, err := asleep(0)
		if err != nil {
			return nil, err
		}
		return store.ProcessOf(p.pid())
	})
	aDeath = sync.OnceValues(func() (*store.Process, error) {
		p, err := asleep(0)
		if err != nil {
			return nil, err
		}
		defer p.end()
		return store.ProcessOf(p.pid())
	})
)

// Tokens that the token file holds before the stage runs.
const (
	foreign   = "terok-g-00000000000000000000000000000001" // another program's, with keys that we do not know
	operators = "terok-g-00000000000000000000000000000002" // belongs to no container
	malformed = "not a token"
	neighbour = "terok-g-00000000000000000000000000000003" // another container's, alive
	orphan    = "terok-g-00000000000000000000000000000004" // another container's, dead
	earlier   = "terok-g-00000000000000000000000000000005" // this container's, tied to no process
	dead      = "terok-g-00000000000000000000000000000006" // this container's last life
	nextLife  = "terok-g-00000000000000000000000000000007" // this container's next life
)

func entry(container string, process *store.Process) map[string]any {
	e := map[string]any{"project": "demo", "task": "1", "scope": "demo", "container": container, "created": "2026-01-02T03:04:05Z"}
	if process != nil {
		e["process"] = process
	}
	return e
}

var worlds atomic.Int64

func newWorld(s situation) (*world, error) {
	w := &world{situation: s, id: "c0ffee", dir: filepath.Join(testenv.Dir, fmt.Sprintf("world%d", worlds.Add(1)))}
	w.tokens = filepath.Join(w.dir, "gate/tokens.json")
	for _, dir := range []string{"bundle", "rootfs/run", "env", "next-env"} {
		if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf(`{"process":{"user":{"uid":1234,"gid":55},"env":["PATH=/bin"]},"root":{"path":%q}}`, filepath.Join(w.dir, "rootfs"))
	if err := os.WriteFile(filepath.Join(w.dir, "bundle/config.json"), []byte(config), 0o644); err != nil {
		return nil, err
	}

	var ended *store.Process
	if !s.byHand {
		container, err := asleep(unix.CLONE_NEWNS | unix.CLONE_NEWNET)
		if err != nil {
			return nil, err
		}
		w.container = container
		if s.stage == "poststop" {
			if ended, err = store.ProcessOf(container.pid()); err != nil {
				return nil, err
			}
			container.end()
		}
	} else if s.stage == "poststop" {
		if err := os.WriteFile(filepath.Join(w.dir, "env", w.id+".env"), nil, 0o600); err != nil {
			return nil, err
		}
	}

	if s.gate {
		if _, err := theGate(); err != nil {
			return nil, err
		}
	}

	alive, err := aLife()
	if err != nil {
		return nil, err
	}
	gone, err := aDeath()
	if err != nil {
		return nil, err
	}

	directory := filepath.Dir(w.tokens)
	if s.directory == "absent" {
		return w, nil
	}
	if err := errors.Join(os.Mkdir(directory, 0o755), os.Chown(directory, ownerUID, ownerGID)); err != nil {
		return nil, err
	}
	if s.directory == "empty" {
		return w, nil
	}

	there := map[string]any{
		foreign:   map[string]any{"scope": "other", "task": "7", "quota": 12345678901234567, "notes": []any{nil, "<&>", "\u2028é", 1.5}},
		operators: map[string]any{"project": "*", "task": ""},
		malformed: 7,
		neighbour: entry("other", alive),
		orphan:    entry("gone", gone),
		earlier:   entry(w.id, nil),
	}
	if s.stage == "poststop" && !s.byHand {
		there[dead] = entry(w.id, ended)
		there[nextLife] = entry(w.id, alive)
	}
	if err := writeTokens(w.tokens, there); err != nil {
		return nil, err
	}
	return w, w.remember()
}

// writeTokens writes a token file with another owner and other formatting than the hook
// would give it, so that a rewrite shows.
func writeTokens(path string, entries map[string]any) error {
	content, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, content, 0o640), os.Chown(path, ownerUID, ownerGID))
}

// remember records the token file, whose entries must not be lost.
func (w *world) remember() (err error) {
	if w.content, err = os.ReadFile(w.tokens); err != nil {
		return err
	}
	if err := unix.Stat(w.tokens, &w.stat); err != nil {
		return err
	}
	w.before, err = w.now()
	return err
}

func (w *world) remove() {
	if w.container != nil {
		w.container.end()
	}
	os.RemoveAll(w.dir)
}

// program returns the stage of the hook, called as a runtime calls it.
func (w *world) program() program {
	pid := 0
	if w.container != nil && w.stage == "prestart" {
		pid = w.container.pid()
	}
	p := w.hook(w.stage, w.id, pid, "env")
	if w.gate {
		i := slices.Index(p.args, "--gate-url")
		p.args = slices.Replace(p.args, i, i+2, "--gate-socket", gateSocket())
	}
	if !w.byHand {
		i := slices.Index(p.args, "--env-dir")
		p.args = slices.Delete(p.args, i, i+2)
	}
	return p
}

// hook returns a stage of the hook for any container, with an env dir.
func (w *world) hook(stage, id string, pid int, envDir string) program {
	state := map[string]any{
		"ociVersion": "1.0.0", "id": id, "status": "created", "bundle": filepath.Join(w.dir, "bundle"),
		"annotations": map[string]string{"terok.project": "demo", "terok.task": "1"},
	}
	if pid != 0 {
		state["pid"] = pid
	}
	stdin, _ := json.Marshal(state)
	args := []string{"--token-file", w.tokens, "--log-file", filepath.Join(w.dir, "log"), stage, "--env-dir", filepath.Join(w.dir, envDir)}
	if stage == "prestart" {
		args = append(args, "--gate-url", "http://gate.example:9418")
	}
	return program{args, string(stdin)}
}

// run runs a program without a tracer.
func run(p program) (f finished, err error) {
	cmd := exec.Command(p.binary(), p.args...)
	return runCommand(cmd, p.stdin)
}

func runCommand(cmd *exec.Cmd, stdin string) (f finished, err error) {
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH")}, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return f, err
	}
	late := time.AfterFunc(testenv.AWhile, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	if !late.Stop() {
		return f, fmt.Errorf("the program does not end: %s", stderr.String())
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	return finished{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}, err
}

// now returns the entries of the token file. It returns an error if the file is not a JSON
// object.
func (w *world) now() (map[string]any, error) { return readTokens(w.tokens) }

func readTokens(path string) (map[string]any, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]any{}, nil
	}
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var entries map[string]any
	if err := decoder.Decode(&entries); err != nil {
		return nil, fmt.Errorf("the token file is broken: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF || entries == nil {
		return nil, errors.New("the token file is not one JSON object")
	}
	return entries, nil
}

// untouched returns an error if the token file is not the one that was there before.
func (w *world) untouched() error {
	content, err := os.ReadFile(w.tokens)
	if w.content == nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("a token file appeared (%v)", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Stat(w.tokens, &stat); err != nil {
		return err
	}
	was := w.stat
	was.Atim, stat.Atim = unix.Timespec{}, unix.Timespec{}
	if !bytes.Equal(content, w.content) || stat != was {
		return errors.New("the token file was changed")
	}
	return nil
}

// without returns the entries less those with these tokens.
func without(entries map[string]any, tokens ...string) map[string]any {
	rest := maps.Clone(entries)
	if rest == nil {
		rest = map[string]any{}
	}
	for _, token := range tokens {
		delete(rest, token)
	}
	return rest
}

// committed returns an error unless the token file is as after the stage's commit:
// everything that was there before, less what must go, and for prestart this
// container's new token.
func (w *world) committed() error {
	_, err := w.issued()
	return err
}

// issued checks what committed does, and returns the new token, empty for poststop.
func (w *world) issued() (token string, err error) {
	now, err := w.now()
	if err != nil {
		return "", err
	}

	if w.stage == "prestart" {
		if token, err = theNewToken(now, w.before, w.id); err != nil {
			return "", err
		}

		process, tied := now[token].(map[string]any)["process"].(map[string]any)
		if tied == w.byHand {
			return "", fmt.Errorf("the new token is tied to process %v", process)
		}
		if tied {
			want, err := store.ProcessOf(w.container.pid())
			if err != nil {
				return "", err
			}
			if got := fmt.Sprintf("%v %v %v", process["pid"], process["start"], process["boot"]); got != fmt.Sprintf("%d %d %s", want.PID, want.Start, want.Boot) {
				return "", fmt.Errorf("the new token is tied to process %v", process)
			}
		}
		delete(now, token)
	}

	want := without(w.before, orphan, earlier, dead)
	if w.blind {
		now, want = without(now, orphan, nextLife), without(want, nextLife)
	}
	if diff := cmp.Diff(want, now); diff != "" {
		return "", fmt.Errorf("the token file is wrong (-want +got):\n%s", diff)
	}
	return token, nil
}

// theNewToken returns the one token that was not there before, which must be the
// container's.
func theNewToken(now, before map[string]any, container string) (string, error) {
	var added []string
	for token := range now {
		if _, ok := before[token]; !ok {
			added = append(added, token)
		}
	}
	if len(added) != 1 || !aToken.MatchString(added[0]) {
		return "", fmt.Errorf("%d tokens were added, not one", len(added))
	}
	e, _ := now[added[0]].(map[string]any)
	if e["project"] != "demo" || e["task"] != "1" || e["scope"] != "demo" || e["container"] != container {
		return "", fmt.Errorf("the new entry is %v", e)
	}
	return added[0], nil
}

// done returns an error if a part of the stage's job is missing: the commit, and what the
// stage leaves in the container or removes on the host.
func (w *world) done(stdout string) error {
	token, err := w.issued()
	if err != nil {
		return err
	}

	env := filepath.Join(w.dir, "env", w.id+".env")
	switch {
	case w.stage == "prestart" && w.byHand:
		if stdout != env+"\n" {
			return fmt.Errorf("standard output is %q, not the env file's path", stdout)
		}
		return holds(env, token)
	case w.stage == "prestart":
		inside := fmt.Sprintf("/proc/%d/root%s/rootfs/run/terok/", w.container.pid(), w.dir)
		_, err := os.Stat(inside + "gitconfig")
		_, noIdentity := os.Stat(inside + "gitidentity")
		_, noCredential := os.Stat(inside + "credential")
		return errors.Join(err, noIdentity, noCredential, holds(inside+"gate.env", token))
	case w.byHand:
		if _, err := os.Lstat(env); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the env file is still there (%v)", err)
		}
	}

	return nil
}

func holds(env, token string) error {
	content, err := os.ReadFile(env)
	if err == nil && !strings.Contains(string(content), "TEROK_GATE_TOKEN="+token+"\n") {
		err = fmt.Errorf("%s does not hold the token", env)
	}
	return err
}

// recovers ends the container, as a runtime does when the hook fails, and runs the next
// hook. It returns an error if something is then lost, or lingers.
func (w *world) recovers(committed bool) error {
	if w.container != nil {
		w.container.end()
	}

	// The next hook is another container's. If the hook runs by hand, there is no process whose
	// death the next one could see. So then the next hook is this container's poststop.
	next := w.hook("prestart", "another", 0, "next-env")
	if w.byHand {
		next = w.hook("poststop", w.id, 0, "env")
	}

	f, err := run(next)
	if err != nil {
		return err
	}
	if f.status != 0 || f.stderr != "" {
		return fmt.Errorf("the next hook ends with status %d: %s", f.status, f.stderr)
	}

	now, err := w.now()
	if err != nil {
		return err
	}

	want := without(w.before, orphan, dead)
	if committed || w.byHand {
		want = without(want, earlier)
	}
	if !w.byHand {
		token, err := theNewToken(now, w.before, "another")
		if err != nil {
			return fmt.Errorf("after the next hook: %w", err)
		}
		delete(now, token)
	}

	if w.blind {
		now, want = without(now, nextLife), without(want, nextLife)
	}
	if diff := cmp.Diff(want, now); diff != "" {
		return fmt.Errorf("after the next hook the token file is wrong (-want +got):\n%s", diff)
	}
	return w.noDebris()
}

// noDebris returns an error if a file is left behind, or has the wrong owner or mode.
func (w *world) noDebris() error {
	uid, gid, mode := uint32(0), uint32(0), uint32(0o600)
	if w.directory != "absent" {
		uid = ownerUID
	}
	if w.directory == "full" {
		gid, mode = ownerGID, 0o640
	}

	files, err := os.ReadDir(filepath.Dir(w.tokens))
	if err != nil {
		return err
	}

	var stat unix.Stat_t
	spare := filepath.Join(filepath.Dir(w.tokens), ".tokens.json.spare") // after a kill, it may not be there
	if unix.Lstat(spare, &stat) == nil {
		files = slices.DeleteFunc(files, func(f fs.DirEntry) bool { return f.Name() == filepath.Base(spare) })
		if stat.Uid != uid && stat.Size > 0 || stat.Mode != unix.S_IFREG|0o600 {
			return fmt.Errorf("the spare file is mode %o, owner %d, with %d bytes", stat.Mode, stat.Uid, stat.Size)
		}
	}

	if len(files) != 2 || files[0].Name() != "tokens.json" || files[1].Name() != "tokens.json.lock" {
		return fmt.Errorf("the directory holds %v", files)
	}

	if err := unix.Lstat(w.tokens+".lock", &stat); err != nil {
		return err
	}
	if stat.Uid != uid || stat.Mode != unix.S_IFREG|0o600 {
		return fmt.Errorf("the lock file is mode %o, owner %d", stat.Mode, stat.Uid)
	}

	if w.byHand {
		files, err := os.ReadDir(filepath.Join(w.dir, "env"))
		if err != nil || len(files) != 0 {
			return fmt.Errorf("the env dir holds %v (%v)", files, err)
		}
	}

	if err := unix.Lstat(w.tokens, &stat); err != nil {
		return err
	}
	if stat.Uid != uid || stat.Gid != gid || stat.Mode != unix.S_IFREG|mode {
		return fmt.Errorf("the token file is mode %o, owner %d:%d", stat.Mode, stat.Uid, stat.Gid)
	}
	return nil
}

// keepsQuiet returns an error if the program printed a secret, or logged a line that is not
// JSON.
func (w *world) keepsQuiet(f finished) error {
	if aToken.MatchString(f.stdout) || aToken.MatchString(f.stderr) {
		return errors.New("a token is in the output")
	}
	log, err := os.ReadFile(filepath.Join(w.dir, "log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if aToken.Match(log) {
		return errors.New("a token is in the log")
	}
	for line := range bytes.Lines(log) {
		if !json.Valid(line) || line[len(line)-1] != '\n' {
			return fmt.Errorf("a line of the log is no JSON: %q", line)
		}
	}
	return nil
}

// atOnce calls try for each item, several at a time.
func atOnce[T any](items []T, try func(T)) {
	var wait sync.WaitGroup
	next := make(chan T)
	for range parallel {
		wait.Go(func() {
			for item := range next {
				try(item)
			}
		})
	}
	for _, item := range items {
		next <- item
	}
	close(next)
	wait.Wait()
}
