package faults

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// pythonWriter writes the token file as an orchestrator in Python does, with the standard
// library: it issues tokens under the lock, and revokes every other one of them.
const pythonWriter = `
import fcntl, json, os, sys, tempfile
path, rounds = sys.argv[1], int(sys.argv[2])
def change(edit):
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with open(path) as file:
            tokens = json.load(file)
        edit(tokens)
        fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
        with os.fdopen(fd, "w") as file:
            json.dump(tokens, file)
        os.replace(temporary, path)
    finally:
        os.close(lock)
for n in range(rounds):
    token = "terok-g-%032x" % (0xabc000 + n)
    change(lambda tokens: tokens.update({token: {"scope": "python", "task": str(n)}}))
    if n % 2:
        change(lambda tokens: tokens.pop(token))
`

// story is the beginning, the middle and the end of a container.
type story struct {
	name   string
	stages []string
	lives  bool // in the end, with a token
}

var stories = []story{
	{"comes and stays", []string{"prestart"}, true},
	{"comes and goes", []string{"prestart", "poststop"}, false},
	{"is restarted", []string{"prestart", "poststop", "prestart"}, true},
	{"goes twice", []string{"prestart", "poststop", "poststop"}, false},
	{"dies, and poststop does not run", []string{"prestart", "death"}, false},
	{"dies, and is started again", []string{"prestart", "death", "prestart"}, true},
	{"is stopped late, when its next life has begun", []string{"prestart", "death", "prestart", "poststop"}, true},
}

// happens runs the hooks of a container with this story, and returns their number.
func (s story) happens(t *testing.T, w *world, id string, byHand bool) (ran int) {
	var process *process
	defer func() {
		if process != nil {
			t.Cleanup(process.end)
		}
	}()

	for _, stage := range s.stages {
		if stage == "death" {
			process.end()
			continue
		}

		pid := 0
		if stage == "prestart" && !byHand {
			var err error
			if process, err = asleep(unix.CLONE_NEWNS); err != nil {
				t.Error(err)
				return ran
			}
			pid = process.pid()
		}

		if stage == "poststop" && process != nil && s.stages[1] == "poststop" {
			process.end()
		}

		ran++
		p := w.hook(stage, id, pid, "env").waiting(testenv.AWhile) // they may all wait for a slow disk
		if pid != 0 {
			p.args = slices.Delete(p.args, slices.Index(p.args, "--env-dir"), slices.Index(p.args, "--env-dir")+2)
		}
		if f, err := run(p); err != nil || f.status != 0 || f.stderr != "" {
			t.Errorf("%s, which %s: %s ends with status %d: %s (%v)", id, s.name, stage, f.status, f.stderr, err)
		}
	}
	return ran
}

// overAndOver runs each of the functions again and again, until end is called.
func overAndOver(t *testing.T, does ...func() error) (end func()) {
	over := make(chan struct{})
	var all sync.WaitGroup
	for _, do := range does {
		all.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if err := do(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		close(over)
		all.Wait()
	}
}

// Two hundred containers come and go, all together and in random order, beside a
// Python writer, a sweep and a reader.
func TestTwoHundredContainersAtOnceLeaveExactlyTheRightTokens(t *testing.T) {
	testenv.NeedAlone(t)
	testenv.Need(t, "python3")
	const containers, pythonRounds = 200, 40

	w, err := newWorld(situation{directory: "full"})
	must(t, err)
	defer w.remove()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	var lives sync.Map // for each container's id, whether it lives in the end
	var hooks, reads atomic.Int64
	var all []func()
	for i := range containers {
		story := stories[random.IntN(len(stories))]
		id := fmt.Sprintf("container%d", i)
		lives.Store(id, story.lives)
		byHand := random.IntN(2) == 0 && !slices.Contains(story.stages, "death")
		all = append(all, func() {
			hooks.Add(int64(story.happens(t, w, id, byHand)))
		})
	}

	all = append(all, func() {
		f, err := runCommand(exec.Command("python3", "-c", pythonWriter, w.tokens, fmt.Sprint(pythonRounds)), "")
		if err != nil || f.status != 0 {
			t.Errorf("the Python writer ends with status %d: %s (%v)", f.status, f.stderr, err)
		}
	})

	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })

	reader := func() error {
		reads.Add(1)
		now, err := w.now()
		if err == nil && now[foreign] == nil {
			err = errors.New("the reader misses a token")
		}
		return err
	}
	sweep := func() error {
		f, err := run(program{args: []string{"--token-file", w.tokens, "reap"}}.waiting(testenv.AWhile))
		if err == nil && f.status != 0 {
			err = errors.New(f.stderr)
		}
		return err
	}
	endBeside := overAndOver(t, reader, sweep)

	var crowd sync.WaitGroup
	for _, one := range all {
		crowd.Go(one)
	}
	crowd.Wait()
	endBeside()
	if t.Failed() {
		return
	}

	f, err := run(program{args: []string{"--token-file", w.tokens, "reap"}})
	must(t, err)
	if f.status != 0 {
		t.Fatal(f.stderr)
	}

	now, err := w.now()
	must(t, err)
	count := map[string]int{}
	for token, e := range without(now, slices.Collect(maps.Keys(w.before))...) {
		switch e := e.(map[string]any); {
		case e["scope"] == "python":
			count["python"]++
		case aToken.MatchString(token):
			count[fmt.Sprint(e["container"])]++
		}
	}

	living, wrong := 0, 0
	lives.Range(func(id, lives any) bool {
		want := 0
		if lives.(bool) {
			want = 1
			living++
		}
		if got := count[id.(string)]; got != want {
			wrong++
			t.Errorf("%s has %d tokens in the end, not %d", id, got, want)
		}
		return true
	})

	if count["python"] != pythonRounds/2 {
		t.Errorf("%d of the Python writer's tokens are there, not %d", count["python"], pythonRounds/2)
	}
	if want := len(w.before) - 1 + living + pythonRounds/2; len(now) != want {
		t.Errorf("the file holds %d entries in the end, not %d", len(now), want)
	}

	for token := range without(w.before, orphan) {
		if now[token] == nil {
			t.Errorf("%s was lost", token)
		}
	}

	if err := w.noDebris(); err != nil && !strings.Contains(err.Error(), "the token file is mode") { // Python's replacement has a mode of its own
		t.Error(err)
	}
	if err := w.keepsQuiet(f); err != nil {
		t.Error(err)
	}

	t.Logf("containers at once: %d, hooks run: %d, Python's changes: %d, whole files read: %d, tokens in the end: %d, wrong: %d",
		containers, hooks.Load(), pythonRounds*3/2, reads.Load(), len(now), wrong)
}

// Another process holds the lock and does not release it. Every hook gives up and says so
// while the lock is still held, and none of them holds it afterwards.
func TestAHookWaitsForTheLockNoLongerThanItsLimit(t *testing.T) {
	testenv.NeedAlone(t)
	w, err := newWorld(situation{stage: "prestart", directory: "full", byHand: true})
	must(t, err)
	defer w.remove()

	lock, err := os.OpenFile(w.tokens+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, lock.Chown(ownerUID, -1))
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))

	const waiters = 50
	var gaveUp atomic.Int64
	atOnce(slices.Repeat([]string{"prestart", "poststop"}, waiters/2), func(stage string) {
		f, err := run(w.hook(stage, w.id, 0, "env").waiting(100 * time.Millisecond))
		if err != nil || f.status != 1 || !isOneLine(f.stderr, stage+": ", w.tokens+".lock: held for more than 100ms by process ") {
			t.Errorf("%s ends with status %d: %s (%v)", stage, f.status, f.stderr, err)
			return
		}
		gaveUp.Add(1)
	})

	must(t, w.untouched())
	must(t, lock.Close())
	if err := w.recovers(false); err != nil {
		t.Error(err)
	}

	t.Logf("hooks that waited: %d, gave up in time: %d", waiters, gaveUp.Load())
}

// A hook stops while it holds the lock, and is then killed. It delays other hooks no longer
// than their time limit, and no longer than it lives.
func TestAHookThatIsKilledWhileItHoldsTheLockDelaysNoOtherAfterItsEnd(t *testing.T) {
	needTracer(t)
	s := situation{stage: "prestart", directory: "full", byHand: true}
	w, err := newWorld(s)
	must(t, err)
	defer w.remove()

	var waited finished
	var waitErr error
	f, err := traced(w.program(), w.dir, func(c call, when when, _ unix.Errno) fault {
		if c.name != "fsync" || when != before {
			return fault{}
		}
		waited, waitErr = run(w.hook("poststop", "another", 0, "next-env").waiting(100 * time.Millisecond))
		return fault{kill: true}
	})
	must(t, errors.Join(err, waitErr))
	if f.status != -1 || waited.status != 1 || !strings.Contains(waited.stderr, "held for more than 100ms by process ") {
		t.Errorf("the hook ended with status %d, the one that waited with %d: %s", f.status, waited.status, waited.stderr)
	}

	must(t, w.untouched())
	if err := w.recovers(false); err != nil {
		t.Error(err)
	}
}
