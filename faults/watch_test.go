package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// watcher is `reap --watch` at work.
type watcher struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

func startWatcher(t *testing.T, tokens string) *watcher {
	t.Helper()
	w := &watcher{cmd: exec.Command(gateBinary, "--token-file", tokens, "reap", "--watch")}
	w.cmd.Env, w.cmd.Stdout, w.cmd.Stderr = []string{}, &w.stdout, &w.stderr
	must(t, w.cmd.Start())
	t.Cleanup(func() {
		w.cmd.Process.Kill()
		w.cmd.Wait()
	})
	// It is at work, and catches signals, once it listens for changes of files.
	if !testenv.Wait(func() bool { return w.listens(t) }) {
		t.Fatalf("the watcher does not start: %s", w.stderr.String())
	}
	return w
}

func (w *watcher) listens(t *testing.T) bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", w.cmd.Process.Pid)
	fds, err := os.ReadDir(dir)
	must(t, err)
	return slices.ContainsFunc(fds, func(fd fs.DirEntry) bool {
		target, _ := os.Readlink(filepath.Join(dir, fd.Name()))
		return strings.Contains(target, "inotify")
	})
}

// stop asks the watcher to end, and fails the test if it ends with an error.
func (w *watcher) stop(t *testing.T, signal os.Signal) {
	t.Helper()
	must(t, w.cmd.Process.Signal(signal))
	late := time.AfterFunc(testenv.AWhile, func() { w.cmd.Process.Kill() })
	if err := w.cmd.Wait(); err != nil || !late.Stop() {
		t.Errorf("after %v it ends with %v: %s", signal, err, w.stderr.String())
	}
	if aToken.MatchString(w.stdout.String() + w.stderr.String()) {
		t.Error("a token is in its output")
	}
}

// watched returns the processes of which the watcher holds a pidfd.
func (w *watcher) watched(t *testing.T) map[int]bool {
	t.Helper()
	pids := map[int]bool{}
	dir := fmt.Sprintf("/proc/%d/fdinfo", w.cmd.Process.Pid)
	infos, err := os.ReadDir(dir)
	must(t, err)

	for _, info := range infos {
		text, err := os.ReadFile(filepath.Join(dir, info.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(t, err)

		for line := range strings.Lines(string(text)) {
			if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(pid))
				must(t, err)
				pids[n] = true
			}
		}
	}
	return pids
}

// waitsFor waits until the watcher watches these processes: there is no event for that.
func (w *watcher) waitsFor(t *testing.T, pids ...int) {
	t.Helper()
	var watched map[int]bool
	if !testenv.Wait(func() bool {
		watched = w.watched(t)
		return !slices.ContainsFunc(pids, func(pid int) bool { return !watched[pid] })
	}) {
		t.Fatalf("the watcher watches %d processes, not all %d: %s", len(watched), len(pids), w.stderr.String())
	}
}

// ticks returns the processor time of a process, in clock ticks.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	must(t, err)
	system, err := strconv.Atoi(fields[12])
	must(t, err)
	return user + system
}

// tokenFile is a token file that the test reads and writes, as a program other than ours would.
type tokenFile struct {
	path   string
	events *fsnotify.Watcher
}

func followTokens(t *testing.T, path string) *tokenFile {
	t.Helper()
	events, err := fsnotify.NewWatcher()
	must(t, err)
	t.Cleanup(func() { events.Close() })
	must(t, events.Add(filepath.Dir(path)))
	return &tokenFile{path, events}
}

// until waits until the file's entries satisfy a condition, and returns the time at which it saw
// that.
func (f *tokenFile) until(t *testing.T, what string, so func(map[string]any) bool) time.Time {
	t.Helper()
	late := time.NewTimer(testenv.AWhile)
	defer late.Stop()
	for {
		now, err := readTokens(f.path)
		if err == nil && so(now) {
			return time.Now()
		}
		select {
		case <-f.events.Events:
		case err := <-f.events.Errors:
			t.Fatal(err)
		case <-late.C:
			t.Fatalf("waited in vain until %s (%v)", what, err)
		}
	}
}

// gone waits until none of these tokens is there.
func (f *tokenFile) gone(t *testing.T, tokens ...string) time.Time {
	t.Helper()
	return f.until(t, "the tokens of the dead are gone", func(now map[string]any) bool {
		return !slices.ContainsFunc(tokens, func(token string) bool { return now[token] != nil })
	})
}

// replace replaces the token file as another program does, under the lock.
func (f *tokenFile) replace(t *testing.T, entries map[string]any) {
	t.Helper()
	content, err := json.Marshal(entries)
	must(t, err)
	lock, err := os.OpenFile(f.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer lock.Close()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	temporary := filepath.Join(filepath.Dir(f.path), "another's temporary file")
	must(t, os.WriteFile(temporary, content, 0o600))
	must(t, os.Rename(temporary, f.path))
}

// life is a process and the token that is tied to it.
type life struct {
	*process
	token string
}

func newLives(t *testing.T, from, n int) ([]life, map[string]any) {
	t.Helper()
	var lives []life
	entries := map[string]any{}
	for i := from; i < from+n; i++ {
		p, err := asleep(0)
		must(t, err)
		t.Cleanup(p.end)
		tied, err := store.ProcessOf(p.pid())
		must(t, err)
		token := fmt.Sprintf("terok-g-%032x", 0x5000000+i)
		entries[token] = entry(fmt.Sprintf("container%d", i), tied)
		lives = append(lives, life{p, token})
	}
	return lives, entries
}

func pidsOf(lives []life) (pids []int) {
	for _, l := range lives {
		pids = append(pids, l.pid())
	}
	return pids
}

// dies kills the process and does not collect it: it stays a zombie, and its token
// must go all the same.
func (l life) dies(t *testing.T) time.Time {
	t.Helper()
	now := time.Now()
	must(t, unix.Kill(l.pid(), unix.SIGKILL)) // not by l.end, which would collect it
	return now
}

func inState(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0]
}

func becomes(t *testing.T, pid int, state string) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("process %d is %s", pid, state), func() bool { return inState(t, pid) == state })
}

// Each token of a thousand containers is revoked when its container's process dies, even if
// the process's parent does not collect the process.
func TestWatchRevokesEachOfAThousandTokensWhenItsProcessDies(t *testing.T) {
	testenv.NeedAlone(t)
	const lives, oneByOne = 1000, 100
	dir := t.TempDir()
	path := filepath.Join(dir, "tokens.json")
	file := followTokens(t, path)

	all, entries := newLives(t, 0, lives)
	entries[foreign] = map[string]any{"scope": "other", "task": "7"}
	file.replace(t, entries)

	w := startWatcher(t, path)
	w.waitsFor(t, pidsOf(all)...)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })

	var latencies []time.Duration
	for i, l := range all[:oneByOne] {
		died := l.dies(t)
		latencies = append(latencies, file.gone(t, l.token).Sub(died))
		if state := inState(t, l.pid()); state != "Z" {
			t.Fatalf("the dead process is in state %s: it was collected", state)
		}

		now, err := readTokens(path)
		must(t, err)
		if want := lives - i; len(now) != want {
			t.Fatalf("%d entries are left, not %d", len(now), want)
		}
	}
	logLatencies(t, lives, latencies)

	// The rest die in bursts, except for the last few.
	const few = 20
	for rest := all[oneByOne : lives-few]; len(rest) > 0; {
		burst := rest[:min(len(rest), 1+random.IntN(200))]
		rest = rest[len(burst):]
		var tokens []string
		for _, l := range burst {
			l.dies(t)
			tokens = append(tokens, l.token)
		}
		file.gone(t, tokens...)
	}

	latencies = nil
	for _, l := range all[lives-few:] {
		died := l.dies(t)
		latencies = append(latencies, file.gone(t, l.token).Sub(died))
	}
	logLatencies(t, few, latencies)

	now, err := readTokens(path)
	must(t, err)
	if len(now) != 1 || now[foreign] == nil {
		t.Errorf("in the end %d entries are left, not just the one of another program", len(now))
	}

	if watched := w.watched(t); len(watched) != 0 {
		// The last sweep may not have let go of the dead processes yet. A new file causes another sweep.
		file.replace(t, now)
		testenv.Eventually(t, "it holds no dead process", func() bool { return len(w.watched(t)) == 0 })
	}

	w.stop(t, syscall.SIGTERM)
	if w.stdout.String()+w.stderr.String() != "" {
		t.Errorf("the watcher says %q %q", w.stdout.String(), w.stderr.String())
	}
	t.Logf("tokens whose process died: %d, revoked: %d, left: 0", lives, lives)
}

func logLatencies(t *testing.T, lives int, latencies []time.Duration) {
	t.Helper()
	slices.Sort(latencies)
	n := len(latencies)
	t.Logf("from a death to its token gone, among %d live tokens, of a process that is not collected: median %v, worst of %d %v",
		lives, latencies[n/2].Round(100*time.Microsecond), n, latencies[n-1].Round(100*time.Microsecond))
}

// A token is watched whichever program issues it, and in whatever way.
func TestWatchPicksUpTokensThatAreIssuedWhileItRuns(t *testing.T) {
	testenv.NeedAlone(t)
	world, err := newWorld(situation{directory: "full"})
	must(t, err)
	defer world.remove()
	file := followTokens(t, world.tokens)
	w := startWatcher(t, world.tokens)
	file.gone(t, orphan) // it sweeps at once

	for _, row := range []struct {
		issued string
		by     func(t *testing.T) []life
	}{
		{"by a hook", func(t *testing.T) []life {
			p, err := asleep(unix.CLONE_NEWNS)
			must(t, err)
			t.Cleanup(p.end)

			before, err := world.now()
			must(t, err)

			hook := world.hook("prestart", "another", p.pid(), "env")
			i := slices.Index(hook.args, "--env-dir")
			hook.args = slices.Delete(hook.args, i, i+2)
			f, err := run(hook)
			must(t, err)
			if f.status != 0 {
				t.Fatal(f.stderr)
			}

			now, err := world.now()
			must(t, err)
			token, err := theNewToken(now, before, "another")
			must(t, err)
			return []life{{p, token}}
		}},
		{"by a program that replaces the file", func(t *testing.T) []life {
			now, err := world.now()
			must(t, err)
			lives, entries := newLives(t, 100, 2)
			maps.Copy(now, entries)
			file.replace(t, now)
			return lives
		}},
		{"by a program that writes into the file", func(t *testing.T) []life {
			now, err := world.now()
			must(t, err)
			lives, entries := newLives(t, 200, 2)
			maps.Copy(now, entries)
			must(t, writeTokens(world.tokens, now)) // for a moment it is half there
			return lives
		}},
		{"again for the same process, by a program that replaces the file", func(t *testing.T) []life {
			lives, entries := newLives(t, 300, 1)
			second := life{lives[0].process, "terok-g-00000000000000000000000000000009"}
			entries[second.token] = entries[lives[0].token]
			now, err := world.now()
			must(t, err)
			maps.Copy(now, entries)
			file.replace(t, now)
			return append(lives, second)
		}},
	} {
		t.Run(row.issued, func(t *testing.T) {
			lives := row.by(t)
			w.waitsFor(t, pidsOf(lives)...)
			for _, l := range lives {
				l.dies(t)
				file.gone(t, l.token)
			}
		})
	}

	now, err := world.now()
	must(t, err)
	for token := range without(world.before, orphan) {
		if now[token] == nil {
			t.Errorf("%s was lost", token)
		}
	}

	w.stop(t, syscall.SIGTERM)
}

// removeAll removes a directory in which a watch may still be making files.
func removeAll(directory string) error {
	for {
		if err := os.RemoveAll(directory); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
}

// After any change of the token file and its directory, the tokens of dead processes are
// still revoked.
func TestWatchSurvivesAnyChangeOfFileAndDirectory(t *testing.T) {
	testenv.NeedAlone(t)
	root := t.TempDir()
	path := filepath.Join(root, "state/gate/tokens.json")
	directory := filepath.Dir(path)

	w := startWatcher(t, path)
	next := 0
	whole := t // the processes live until the whole test ends: while a row is tested, only what the row says may happen

	// proof writes a token file, and shows that a token in the file is revoked when its
	// process dies.
	proof := func(t *testing.T) {
		t.Helper()
		lives, entries := newLives(whole, next, 2)
		next += 2
		file := followTokens(t, path)
		file.replace(t, entries)

		w.waitsFor(t, pidsOf(lives)...)
		lives[0].dies(t)
		file.gone(t, lives[0].token)

		now, err := readTokens(path)
		must(t, err)
		if now[lives[1].token] == nil {
			t.Fatal("the token of a living process was lost")
		}
	}

	for _, row := range []struct {
		happens string
		do      func() error
	}{
		{"its directory is made", func() error { return os.MkdirAll(directory, 0o755) }},
		{"the file is removed", func() error { return os.Remove(path) }},
		{"the file and its lock are removed", func() error { return errors.Join(os.Remove(path), os.Remove(path+".lock")) }},
		{"the directory is removed and made again", func() error { return errors.Join(removeAll(directory), os.Mkdir(directory, 0o755)) }},
		{"the directory's directory is removed and all is made again", func() error {
			return errors.Join(removeAll(filepath.Dir(directory)), os.MkdirAll(directory, 0o755))
		}},
		{"the directory is moved away and made again", func() error {
			return errors.Join(os.Rename(directory, directory+".old"), os.Mkdir(directory, 0o755))
		}},
		{"the directory is replaced by another", func() error {
			return errors.Join(os.Mkdir(directory+".new", 0o755), unix.Renameat2(unix.AT_FDCWD, directory, unix.AT_FDCWD, directory+".new", unix.RENAME_EXCHANGE))
		}},
		{"the directory's directory is replaced by a symbolic link to it", func() error {
			state := filepath.Dir(directory)
			return errors.Join(os.Rename(state, state+".real"), os.Symlink(state+".real", state))
		}},
		{"a file takes the directory's place for a while", func() error {
			return errors.Join(removeAll(directory), os.WriteFile(directory, nil, 0o600), os.Remove(directory), os.Mkdir(directory, 0o755))
		}},
	} {
		t.Run(row.happens, func(t *testing.T) {
			must(t, row.do())
			proof(t)
		})
	}

	t.Run("the file is broken for a while", func(t *testing.T) {
		for _, row := range []struct{ broken, says string }{
			{"", "byte 0: unexpected end"},
			{"{", "byte 1: unexpected end"},
			{"[]", "byte 1: a JSON array"},
			{"null", "byte 0: a JSON null"},
			{`{"terok-g-`, "byte 10: unexpected end"},
		} {
			must(t, os.WriteFile(path, []byte(row.broken), 0o600))
			if _, seen := systemLog.Wait(func(message string) bool {
				return strings.Contains(message, path) && strings.Contains(message, row.says)
			}); !seen {
				t.Fatalf("the watcher does not say %q of the file", row.says)
			}
			content, err := os.ReadFile(path)
			must(t, err)
			if string(content) != row.broken {
				t.Fatalf("a broken file was changed into %q", content)
			}
		}

		must(t, os.Remove(path))
		proof(t)
	})

	t.Run("a broken file is fixed", func(t *testing.T) {
		lives, entries := newLives(whole, next, 1)
		file := followTokens(t, path)
		file.replace(t, entries)
		w.waitsFor(t, pidsOf(lives)...)

		must(t, os.WriteFile(path, []byte("{"), 0o600))
		lives[0].dies(t)
		file.replace(t, entries) // the dead process's token is in it again
		file.gone(t, lives[0].token)
	})

	w.stop(t, syscall.SIGINT)
}

// When a machine or a session ends, all processes end at the same time. Tokens of processes
// that died before the watch ended are still revoked. In this test, the watch is stopped
// (SIGSTOP) while a process dies and the watch is told to end, so that it learns of both at
// once.
func TestWatchRevokesWhatDiedJustBeforeItWasEnded(t *testing.T) {
	testenv.NeedAlone(t)
	world, err := newWorld(situation{directory: "full"})
	must(t, err)
	defer world.remove()
	file := followTokens(t, world.tokens)
	for i := range 5 { // the watch may see either of the two first, so try several times
		w := startWatcher(t, world.tokens)
		lives, entries := newLives(t, i, 1)
		file.replace(t, entries)
		w.waitsFor(t, pidsOf(lives)...)

		must(t, w.cmd.Process.Signal(unix.SIGSTOP))
		becomes(t, w.cmd.Process.Pid, "T")
		lives[0].dies(t)
		becomes(t, lives[0].pid(), "Z")

		must(t, w.cmd.Process.Signal(unix.SIGTERM))
		must(t, w.cmd.Process.Signal(unix.SIGCONT))
		w.stop(t, unix.SIGCONT)

		now, err := readTokens(world.tokens)
		must(t, err)
		if now[lives[0].token] != nil {
			t.Fatal("the token of the dead stays")
		}
	}
}

// While nothing happens, the watch uses no processor time: not a clock tick while another
// process uses two hundred.
func TestWatchUsesNoProcessorTimeWhileNothingHappens(t *testing.T) {
	testenv.NeedAlone(t)
	testenv.Need(t, "sh")
	for _, row := range []struct {
		name   string
		tokens int
	}{{"with a thousand live tokens", 1000}, {"without a token file or its directory", 0}} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gate/tokens.json")
			lives, entries := newLives(t, 0, row.tokens)
			if row.tokens > 0 {
				must(t, os.Mkdir(filepath.Dir(path), 0o755))
				followTokens(t, path).replace(t, entries)
			}

			w := startWatcher(t, path)
			pid := w.cmd.Process.Pid
			w.waitsFor(t, pidsOf(lives)...)

			busy := exec.Command("sh", "-c", "while :; do :; done")
			must(t, busy.Start())
			defer busy.Wait()
			defer busy.Process.Kill()

			// The watcher has settled once it uses no tick while the other process uses ten.
			const settled, measured = 10, 200
			used := func(span int) int {
				from, its := ticks(t, busy.Process.Pid), ticks(t, pid)
				for ticks(t, busy.Process.Pid) < from+span {
					<-time.After(5 * time.Millisecond)
				}
				return ticks(t, pid) - its
			}

			for end := time.Now().Add(testenv.AWhile); used(settled) > 0; {
				if time.Now().After(end) {
					t.Fatal("the watcher never comes to rest")
				}
			}

			got := used(measured)
			if got > 0 {
				t.Errorf("the watcher used %d clock ticks while another process used %d", got, measured)
			}
			t.Logf("clock ticks used %s, while another process used %d: %d", row.name, measured, got)
			w.stop(t, syscall.SIGTERM)
		})
	}
}
