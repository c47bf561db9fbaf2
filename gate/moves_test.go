package gate_test

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// waitOnceMoved makes git's hook wait as soon as the refs have moved, without telling the gate.
func waitOnceMoved(t *testing.T, h *harness) {
	t.Helper()
	hook := filepath.Join(h.repos, ".hooks", "reference-transaction")
	must(t, os.Remove(hook))
	must(t, os.WriteFile(hook, []byte(`#!/bin/bash
[ "$1" != committed ] || sleep 1000
[ "$1" = prepared ] || exit 0
{ echo prepared; grep ' refs/'; echo; } >&3
read -r answer <&3
[ "$answer" = yes ]
`), 0o755))
}

func TestTheTrailSaysWhoMovedWhatFromWhereToWhere(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 2)
	token, _ := h.tied(t)
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	work := filepath.Join(h.dir, "work")
	before := git(t, demo, "rev-parse", "main")

	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	git(t, work, "push", "--quiet", "origin", "main", "main:side")
	git(t, work, "push", "--quiet", "origin", ":side")
	after := git(t, demo, "rev-parse", "main")

	who := trail.Event{Container: "c1", Project: "demo", Task: "task-1", Fingerprint: store.Token(token).Fingerprint()}
	check := func(e, want trail.Event) {
		t.Helper()
		want.Container, want.Project, want.Task, want.Fingerprint = who.Container, who.Project, who.Task, who.Fingerprint
		if !strings.HasPrefix(e.From, "127.0.0.1:") {
			t.Errorf("from %q", e.From)
		}
		want.From, want.Bytes, want.Duration = e.From, e.Bytes, e.Duration
		if e != want {
			t.Errorf("the trail has\n%+v, not\n%+v", e, want)
		}
	}

	check(h.trailed(t, trail.Fetch, 1)[0], trail.Event{Event: trail.Fetch})
	pushes := h.trailed(t, trail.Push, 2)
	check(pushes[0], trail.Event{Event: trail.Push, Refs: 2})
	check(pushes[1], trail.Event{Event: trail.Push, Refs: 1})

	moved := h.trailed(t, trail.Moved, 3)
	check(moved[0], trail.Event{Event: trail.Moved, Ref: "refs/heads/main", Old: before, New: after})
	check(moved[1], trail.Event{Event: trail.Moved, Ref: "refs/heads/side", Old: noObject, New: after})
	check(moved[2], trail.Event{Event: trail.Moved, Ref: "refs/heads/side", Old: after, New: noObject})
}

func TestTheGateFindsOutWhatAPushCutTooLateHasMoved(t *testing.T) {
	for name, others := range map[string]int{"a few refs": 0, "more than a push can name": 150_000} {
		t.Run(name, func(t *testing.T) { findOut(t, others) })
	}
}

func findOut(t *testing.T, others int) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	work := filepath.Join(h.dir, "work")
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	tip := git(t, demo, "rev-parse", "main")

	packed := []byte("# pack-refs with: peeled fully-peeled sorted \n")
	for i := range others {
		packed = fmt.Appendf(packed, "%s refs/tags/%080d\n", tip, i)
	}
	must(t, os.WriteFile(filepath.Join(demo, "packed-refs"), packed, 0o644))

	waitOnceMoved(t, h)

	push := command(work, "push", "origin", "main", "main:side")
	cutShort(t, h, push, func() bool {
		return git(t, demo, "for-each-ref", "refs/heads/side") != ""
	}, func() { h.revoke(t, "demo") })

	if event := h.trailed(t, trail.Cut, 1)[0]; event.Refs != 2 {
		t.Errorf("the trail has %+v", event)
	}
	if moved := h.trailed(t, trail.Moved, 2); moved[0].Ref != "refs/heads/main" || moved[1].Ref != "refs/heads/side" || moved[1].New != git(t, work, "rev-parse", "main") {
		t.Errorf("the trail has %+v", moved)
	}
}

// Whatever kills the git of the push may then also kill the git that the gate itself starts.
func TestTheGateFindsOutWhatAPushHasMovedThoughItsGitIsKilledOnce(t *testing.T) {
	next := filepath.Join(memory(t), "kill-the-next")
	h, _ := openOver(t, "case \"$*\" in *for-each-ref*) rm "+next+" 2>/dev/null && kill -KILL $$ ;; esac")
	demo := h.demo(t, "demo", 1)
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), "work")
	waitOnceMoved(t, h)

	push := command(filepath.Join(h.dir, "work"), "push", "origin", "main:side")
	cutShort(t, h, push, func() bool {
		return git(t, demo, "for-each-ref", "refs/heads/side") != ""
	}, func() {
		must(t, os.WriteFile(next, nil, 0o600))
		h.revoke(t, "demo")
	})
	h.trailed(t, trail.Moved, 1)
	if _, err := os.Stat(next); err == nil {
		t.Error("no git was killed")
	}
}

// noObject is the name that stands for no object.
var noObject = strings.Repeat("0", 40)

// pushRequest is a push as any client may send it, not only git: the commands, and an empty pack if
// one of the commands needs a pack.
func pushRequest(token, capabilities string, commands ...string) string {
	var body strings.Builder
	for i, command := range commands {
		if i == 0 {
			command += "\x00" + capabilities
		}
		body.WriteString(pkt(command))
	}
	body.WriteString("0000")
	if slices.ContainsFunc(commands, func(c string) bool { return !strings.Contains(c, " "+noObject+" ") }) {
		nothing := []byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00")
		sum := sha1.Sum(nothing)
		body.Write(append(nothing, sum[:]...))
	}
	return head("POST /demo.git/git-receive-pack", token, receiveRequest, fmt.Sprintf("Content-Length: %d", body.Len())) + body.String()
}

// answered sends a request, and returns the answer.
func (h *harness) answered(t *testing.T, request string) string {
	t.Helper()
	answer, err := http.ReadResponse(bufio.NewReader(h.dial(t, request)), nil)
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return string(text)
}

// lines returns the trail's lines about a ref.
func (h *harness) lines(event, ref string) (found []trail.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Event == event && e.Ref == ref {
			found = append(found, e)
		}
	}
	return found
}

// git itself deletes whatever is there, if the old value is none or unknown.
func TestACommandWhoseOldValueIsNotThePresentOneMovesNothing(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 3)
	token := h.issue(t, "demo")
	tip, before := git(t, demo, "rev-parse", "main"), git(t, demo, "rev-parse", "main~1")
	git(t, demo, "update-ref", "refs/heads/side", tip)
	git(t, demo, "symbolic-ref", "HEAD", "refs/heads/other") // the branch of HEAD is the only one that git refuses to delete
	all := git(t, demo, "for-each-ref")
	for name, command := range map[string]string{
		"a deletion that names no old value":      noObject + " " + noObject + " refs/heads/main",
		"a deletion of a ref that is not there":   noObject + " " + noObject + " refs/heads/nothing",
		"a deletion that names an unknown object": strings.Repeat("1", 40) + " " + noObject + " refs/heads/main",
		"a deletion that names an older value":    before + " " + noObject + " refs/heads/main",
		"a move that names an older value":        before + " " + tip + " refs/heads/main",
		"a creation of a ref that is there":       noObject + " " + before + " refs/heads/main",
	} {
		says := h.answered(t, pushRequest(token, "report-status", command))
		if !strings.Contains(says, "ng refs/heads/") {
			t.Errorf("%s: %q", name, says)
		}
		if is := git(t, demo, "for-each-ref"); is != all {
			t.Fatalf("%s: the refs are\n%s", name, is)
		}
	}
	for _, event := range []string{trail.Moving, trail.Moved} {
		h.trailed(t, event, 0)
	}
}

// If a ref's object is missing, git deletes the ref without a look at the old value, and reports
// zeroes to its hook. The gate could not tell that from a packed ref, for which git also reports
// zeroes.
func TestARefToAMissingObjectIsNotDeleted(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	token, tip, lost := h.issue(t, "demo"), git(t, demo, "rev-parse", "main"), strings.Repeat("1", 40)
	git(t, demo, "update-ref", "refs/heads/side", tip)
	path := filepath.Join(demo, "refs", "heads", "lost")
	must(t, os.WriteFile(path, []byte(lost+"\n"), 0o644))

	says := h.answered(t, pushRequest(token, "report-status", tip+" "+noObject+" refs/heads/side", lost+" "+noObject+" refs/heads/lost"))
	if !strings.Contains(says, "ng refs/heads/lost the object that the ref names is missing") || !strings.Contains(says, "ng refs/heads/side another ref") {
		t.Errorf("the client is told %q", says)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if e := h.trailed(t, trail.Refused, 1)[0]; e.Ref != "refs/heads/lost" {
		t.Errorf("the trail has %+v", e)
	}
	if says := h.answered(t, pushRequest(token, "report-status", tip+" "+noObject+" refs/heads/side")); !strings.Contains(says, "ok refs/heads/side") {
		t.Errorf("of a deletion of side alone, the client is told %q", says)
	}
	h.trailed(t, trail.Moved, 1)
}

// Each line's old value is the new value of the line before, no matter which client hangs up
// and which git is ended.
func TestTheLinesOfARefAreAChain(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 2)
	token := h.issue(t, "demo")
	start, other := git(t, demo, "rev-parse", "main"), git(t, demo, "rev-parse", "main~1")
	git(t, demo, "symbolic-ref", "HEAD", "refs/heads/other")

	// next is a push that moves main from where it is, if no other client is quicker.
	next := func(client int) string {
		is, _ := readFile(filepath.Join(demo, "refs", "heads", "main"))
		switch strings.TrimSpace(is) {
		case "":
			return noObject + " " + start + " refs/heads/main"
		case other:
			return other + " " + start + " refs/heads/main"
		}
		if client%2 == 0 {
			return start + " " + noObject + " refs/heads/main"
		}
		return start + " " + other + " refs/heads/main"
	}

	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for round := range 40 {
				request := pushRequest(token, "report-status side-band-64k", next(client))
				conn, err := net.Dial("tcp", h.address)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(conn, request)
				if (client+round)%3 > 0 { // await an answer
					_, _ = io.ReadAll(io.LimitReader(conn, 1))
				}
				conn.Close()
			}
		})
	}

	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		seen := map[int]bool{}
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}

			for _, process := range processesIn(demo) {
				path, args, _ := strings.Cut(process, " ")
				pid, err := strconv.Atoi(filepath.Base(path))
				if err != nil || seen[pid] || !strings.Contains(args, "receive-pack --stateless-rpc") {
					continue
				}
				// On a slow machine, too, some pushes have to end by themselves.
				if seen[pid] = true; len(seen)%3 == 0 {
					_ = syscall.Kill(pid, syscall.SIGTERM)
				}
			}
		}
	})

	clients.Wait()
	close(stop)
	killer.Wait()
	testenv.Eventually(t, "git has ended", func() bool { return len(processesIn(h.repos)) == 0 })

	t.Cleanup(func() {
		for _, left := range glob(demo + "/objects/tmp_objdir-incoming-*") { // left by a git that we ended; the next gate would remove it
			os.RemoveAll(left)
		}
	})

	for _, event := range []string{trail.Push, trail.Cut, trail.Refused, trail.Failed} {
		h.mu.Lock()
		t.Logf("%s: %d", event, len(slices.DeleteFunc(slices.Clone(h.events), func(e trail.Event) bool { return e.Event != event })))
		h.mu.Unlock()
	}

	end := func() string { return git(t, demo, "for-each-ref", "--format=%(objectname)", "refs/heads/main") }
	testenv.Eventually(t, "the last line says what main is", func() bool {
		lines := h.lines(trail.Moved, "refs/heads/main")
		return len(lines) == 0 && end() == start || len(lines) > 0 && strings.TrimLeft(lines[len(lines)-1].New, "0") == end()
	})
	is := start
	for i, e := range h.lines(trail.Moved, "refs/heads/main") {
		if e.Old != is {
			t.Errorf("line %d: main moves from %s to %s, but was %s before", i, e.Old, e.New, is)
		}
		is = e.New
	}

	if is == start && len(h.lines(trail.Moved, "refs/heads/main")) == 0 {
		t.Error("no push moved main")
	}
	t.Logf("%d moves", len(h.lines(trail.Moved, "refs/heads/main")))
}

func TestTheTrailNamesEachOfThousandsOfRefs(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 2)
	token := h.issue(t, "demo")
	tip, before := git(t, demo, "rev-parse", "main"), git(t, demo, "rev-parse", "main~1")

	const number = 2500
	commands := make([]string, number)
	for i := range commands {
		commands[i] = noObject + " " + before + fmt.Sprintf(" refs/heads/a/%d", i)
	}
	commands = append(commands, tip+" "+before+" refs/heads/main")
	if says := h.answered(t, pushRequest(token, "report-status", commands...)); !strings.Contains(says, "ok refs/heads/main") {
		t.Fatalf("%.500q", says)
	}

	h.trailed(t, trail.Moving, number+1)
	h.trailed(t, trail.Moved, number+1)
	if event := h.trailed(t, trail.Push, 1)[0]; event.Refs != number+1 {
		t.Errorf("the trail has %+v", event)
	}
	if lines := h.lines(trail.Moved, "refs/heads/main"); len(lines) != 1 || lines[0].Old != tip || lines[0].New != before {
		t.Errorf("of main, the trail has %+v", lines)
	}
}

func TestTheTrailHasAMoveBeforeTheClientHearsOfIt(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	tip := git(t, demo, "rev-parse", "main")
	for i := range 20 {
		ref := fmt.Sprintf("refs/heads/new-%d", i)
		conn := h.dial(t, pushRequest(h.issue(t, "demo"), "report-status", noObject+" "+tip+" "+ref))
		lines := bufio.NewReader(conn)
		for {
			line, err := lines.ReadString('\n')
			must(t, err)
			if strings.Contains(line, "ok "+ref) {
				break
			}
		}
		if found := h.lines(trail.Moved, ref); len(found) != 1 {
			t.Fatalf("the client has heard of the move, but the trail has %+v", found)
		}
	}
}

func TestAPushThatTheTrailCannotRecordIsRefused(t *testing.T) {
	h := open(t, gate.Settings{Trail: failsFor(trail.Moving)})
	demo := h.demo(t, "demo", 1)
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), work)
	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "one")
	before := git(t, demo, "for-each-ref")
	says := gitFails(t, work, "push", "origin", "main", "main:side")
	if !strings.Contains(says, "main -> side (the gate cannot write down what the push moves)") {
		t.Errorf("the client says %s", says)
	}
	if after := git(t, demo, "for-each-ref"); after != before {
		t.Errorf("the refs are\n%s", after)
	}
	h.trailed(t, trail.Refused, 1)
}

// The trail says that the ref is to move, and the client must not believe that the ref has moved.
func TestAClientDoesNotHearOfAMoveThatTheTrailLacks(t *testing.T) {
	h := open(t, gate.Settings{Trail: failsFor(trail.Moved)})
	demo := h.demo(t, "demo", 1)
	tip := git(t, demo, "rev-parse", "main")
	conn := h.dial(t, pushRequest(h.issue(t, "demo"), "report-status side-band-64k", noObject+" "+tip+" refs/heads/new"))
	if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		if heard, _ := io.ReadAll(answer.Body); strings.Contains(string(heard), "ok refs/heads/new") {
			t.Errorf("it hears %q", heard)
		}
	}
	if lines := h.lines(trail.Moving, "refs/heads/new"); len(lines) != 1 || lines[0].New != tip {
		t.Errorf("the trail has %+v", lines)
	}
	if event := h.trailed(t, trail.Failed, 1)[0]; event.Refs != 1 {
		t.Errorf("the trail has %+v", event)
	}
}

func failsFor(event string) func(...trail.Event) error {
	return func(events ...trail.Event) error {
		if events[0].Event == event {
			return syscall.ENOSPC
		}
		return nil
	}
}

// The limits and the trail take a symbolic ref for the ref that it stands for.
func TestASymbolicRefIsWhatItStandsFor(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 2)
	tip, before := git(t, demo, "rev-parse", "main"), git(t, demo, "rev-parse", "main~1")
	h.put(t, limitedToken, `{"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}, "task": "1"}`)
	git(t, demo, "update-ref", "refs/heads/agent/1", tip)
	git(t, demo, "symbolic-ref", "refs/heads/alias", "refs/heads/agent/1")
	git(t, demo, "symbolic-ref", "refs/heads/agent/main", "refs/heads/main")
	git(t, demo, "symbolic-ref", "refs/heads/agent/new", "refs/heads/new")
	push := func(command string) string {
		return h.answered(t, pushRequest(limitedToken, "report-status", command))
	}

	const refuses = "the token may push to refs/heads/agent/**"
	if says := push(tip + " " + before + " refs/heads/agent/main"); !strings.Contains(says, "ng refs/heads/agent/main "+refuses) {
		t.Errorf("one that stands for main: %q", says)
	}
	if says := push(noObject + " " + before + " refs/heads/agent/new"); !strings.Contains(says, "ng refs/heads/agent/new "+refuses) {
		t.Errorf("one that stands for a branch that is not there: %q", says)
	}
	if is := git(t, demo, "for-each-ref", "--format=%(objectname)", "refs/heads/main", "refs/heads/new"); is != tip {
		t.Errorf("main has moved, or new is there: %s", is)
	}
	h.trailed(t, trail.Moved, 0)

	if says := push(tip + " " + before + " refs/heads/alias"); !strings.Contains(says, "ok refs/heads/alias") {
		t.Errorf("one that stands for what is allowed: %q", says)
	}
	if e := h.trailed(t, trail.Moved, 1)[0]; e.Ref != "refs/heads/agent/1" || e.Old != tip || e.New != before {
		t.Errorf("the trail has %+v", e)
	}
}

// What a symbolic ref stands for can be outside refs/, where no token may push.
func TestNothingOutsideRefsIsPushed(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	token, tip := h.issue(t, "demo"), git(t, demo, "rev-parse", "main")
	git(t, demo, "update-ref", "--no-deref", "HEAD", tip)
	git(t, demo, "symbolic-ref", "refs/heads/head", "HEAD")
	git(t, demo, "symbolic-ref", "refs/heads/none", "ORIG_HEAD")

	for _, command := range []string{tip + " " + noObject + " refs/heads/head", noObject + " " + tip + " refs/heads/none"} {
		if says := h.answered(t, pushRequest(token, "report-status", command)); !strings.Contains(says, "ng refs/heads/") {
			t.Errorf("%s: %q", command, says)
		}
	}
	if _, err := os.Stat(filepath.Join(demo, "ORIG_HEAD")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ORIG_HEAD is there: %v", err)
	}
	h.trailed(t, trail.Moved, 0)
}

func TestSomeRefsAreNeverPushed(t *testing.T) {
	const write = `{"limited": {"project": "demo", "access": "write", "push": [["refs/**"]]}, "task": "1"}`
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	tip := git(t, demo, "rev-parse", "main")
	h.put(t, limitedToken, write)
	anything := h.issue(t, "demo")
	for _, row := range []struct {
		token, ref string
		moves      bool
	}{
		{anything, "refs/heads/new", true},
		{anything, "refs/tags/new", true},
		{anything, "refs/notes/new", true},
		{anything, "refs/replace/" + tip, false},
		{anything, "refs/terok/kept/1/refs/heads/main", false},
		{anything, "refs/odd/new", false},
		{anything, "refs/stash", false},
		{anything, "refs/heads", false},
		{limitedToken, "refs/odd/new", true},
		{limitedToken, "refs/replace/" + tip, false},
		{limitedToken, "refs/terok/new", false},
	} {
		says := h.answered(t, pushRequest(row.token, "report-status", noObject+" "+tip+" "+row.ref))
		if moves := strings.Contains(says, "ok "+row.ref); moves != row.moves {
			t.Errorf("%s moves: %v: %q", row.ref, moves, says)
		}
		if is := git(t, demo, "for-each-ref", "--format=%(refname)", row.ref) == row.ref; is != row.moves {
			t.Errorf("%s is there: %v", row.ref, is)
		}
	}
}

// However a client spells its capabilities, git moves the refs in one transaction.
func TestAPushMovesAllOfItsRefsOrNone(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	git(t, demo, "config", "receive.advertiseAtomic", "false")
	tip := git(t, demo, "rev-parse", "main")
	token := h.issue(t, "demo")
	for i, capabilities := range []string{"report-status", " report-status", "report-status\x00", "report-status\x00 x", "report-status atomic\n"} {
		create := func(name string) string { return fmt.Sprintf("%s %s refs/heads/%d/%s", noObject, tip, i, name) }
		// A branch cannot be below another branch. Only git checks this.
		says := h.answered(t, pushRequest(token, capabilities, create("a"), create("b"), create("b/c")))
		if is := git(t, demo, "for-each-ref", fmt.Sprintf("refs/heads/%d", i)); is != "" {
			t.Errorf("%q: there is\n%s: %q", capabilities, is, says)
		}
		says = h.answered(t, pushRequest(token, capabilities, create("a"), create("b")))
		if strings.Count(says, "ok refs/heads/") != 2 {
			t.Errorf("%q: %q", capabilities, says)
		}
	}
}

// libgit2, dulwich, go-git and JGit close the connection when they have what they need.
func TestAClientThatHangsUpAfterTheLastByteSucceeds(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 3)
	tip := git(t, demo, "rev-parse", "main")
	const rounds = 30

	// hangUp sends a request, and hangs up as soon as it has heard enough.
	hangUp := func(request string, enough func(heard []byte) bool) {
		t.Helper()
		conn := h.dial(t, request)
		answer, err := http.ReadResponse(bufio.NewReader(iotest.OneByteReader(conn)), nil)
		must(t, err)
		var heard []byte
		for one := make([]byte, 1); !enough(heard); heard = append(heard, one...) {
			if _, err := io.ReadFull(answer.Body, one); err != nil {
				t.Fatalf("it hears %q: %v", heard, err)
			}
		}
		conn.Close()
	}

	isPack := func(heard []byte) bool { // it ends in the SHA-1 of all before
		if at := bytes.Index(heard, []byte("PACK")); at < 0 || len(heard) < at+32 {
			return false
		} else {
			heard = heard[at:]
		}
		sum := sha1.Sum(heard[:len(heard)-20])
		return bytes.Equal(sum[:], heard[len(heard)-20:])
	}

	isPackInBand := func(heard []byte) bool {
		var pack []byte
		for len(heard) >= 4 {
			length, err := strconv.ParseUint(string(heard[:4]), 16, 16)
			must(t, err)
			if len(heard) < max(4, int(length)) {
				return false
			}
			if length > 4 && heard[4] == 1 {
				pack = append(pack, heard[5:length]...)
			}
			heard = heard[max(4, length):]
		}
		return isPack(pack)
	}

	for i := range rounds {
		token := h.issue(t, "demo")
		for capabilities, enough := range map[string]func([]byte) bool{"side-band-64k no-progress": isPackInBand, "side-band-64k": isPackInBand, "": isPack} {
			fetch := pkt("want "+tip+" "+capabilities+"\n") + "0000" + pkt("done\n")
			hangUp(head("POST /demo.git/git-upload-pack", token, uploadRequest, fmt.Sprintf("Content-Length: %d", len(fetch)))+fetch, enough)
		}

		list := pkt("command=ls-refs") + "0001" + "0000"
		hangUp(head("POST /demo.git/git-upload-pack", token, uploadRequest, "Git-Protocol: version=2", fmt.Sprintf("Content-Length: %d", len(list)))+list,
			func(heard []byte) bool { return bytes.HasSuffix(heard, []byte("refs/heads/main\n")) })
		hangUp(head("GET /demo.git/info/refs?service=git-receive-pack", token), func(heard []byte) bool { return bytes.Contains(heard, []byte("refs/heads/main\x00")) })

		ref := fmt.Sprintf("refs/heads/new-%d", i)
		hangUp(pushRequest(token, "report-status side-band-64k", noObject+" "+tip+" "+ref), func(heard []byte) bool {
			return bytes.HasSuffix(heard, []byte("ok "+ref+"\n0000"))
		})
	}

	h.trailed(t, trail.Fetch, 3*rounds)
	h.trailed(t, trail.Push, rounds)
	h.trailed(t, trail.Moved, rounds)
	h.trailed(t, trail.Cut, 0)
}

func TestAFloodIsSummedUp(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	tip := git(t, demo, "rev-parse", "main")
	readOnly := h.containerToken(t, []string{"--access", "read"}, nil)
	const number = 500
	began := time.Now()
	for i := range number {
		h.request(t, "GET", "/demo.git/info/refs?service=git-receive-pack", readOnly, "") // refused
		// Each of these requests has another token, which is made up.
		h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", fmt.Sprintf("terok-g-%032x", i), "")
	}
	most := 2 * (trail.OwnLines + 1) * (int(time.Since(began)/time.Second) + 2)
	if lines := h.trailed(t, trail.Refused, 2*number); len(lines) > most {
		t.Errorf("they are %d lines, not %d at most", len(lines), most)
	}

	// Lines are short, too: of a long name of a refused ref, they have only the beginning.
	long := "refs/other/" + strings.Repeat("x", 4000)
	h.answered(t, pushRequest(h.issue(t, "demo"), "report-status", fmt.Sprintf("%s %s %s", noObject, tip, long)))
	if e := h.trailed(t, trail.Refused, 2*number+1); e[len(e)-1].Ref != long[:256] {
		t.Errorf("the trail has %+v", e[len(e)-1])
	}

	// Refs that move have lines of their own.
	token := h.issue(t, "demo")
	for i := range 3 * trail.OwnLines {
		h.answered(t, pushRequest(token, "report-status", fmt.Sprintf("%s %s refs/heads/new-%d", noObject, tip, i)))
	}
	if lines := h.trailed(t, trail.Moved, 3*trail.OwnLines); len(lines) != 3*trail.OwnLines {
		t.Errorf("they are %d lines", len(lines))
	}
}
