package gate_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// several are the limits of a token. The token may write to demo, its own project, and to the
// project tools, and may read the project lib. If the limits allow no writing, it may only read all
// three. A field is empty if that limit is not given.
type several struct {
	access, narrowAccess string // flag and annotation
	refs, narrowRefs     string // flag and annotation
	hashed               bool
}

const (
	refsByFlag       = "refs/heads/{project}/{task}/*"
	refsByAnnotation = "refs/heads/{project}/*/a"
)

func allSeveral() (all []several) {
	for _, access := range []string{"", "append", "read"} {
		for _, narrowAccess := range []string{"", "append", "read"} {
			for _, refs := range []string{"", refsByFlag} {
				for _, narrowRefs := range []string{"", refsByAnnotation} {
					for _, hashed := range []bool{false, true} {
						all = append(all, several{access, narrowAccess, refs, narrowRefs, hashed})
					}
				}
			}
		}
	}
	return all
}

func (c several) flags() (flags []string) {
	flags = []string{"--allow-project", "demo", "--allow-project", "tools", "--allow-read", "lib"}
	if c.access != "" {
		flags = append(flags, "--access", c.access)
	}
	if c.refs != "" {
		flags = append(flags, "--push", c.refs)
	}
	if c.hashed {
		flags = append(flags, "--hashed")
	}
	return flags
}

func (c several) annotations() map[string]string {
	annotations := map[string]string{hook.ReadAnnotation: "lib", hook.WriteAnnotation: "tools"}
	if c.reads() {
		annotations = map[string]string{hook.ReadAnnotation: "lib, tools"}
	}
	if c.narrowAccess != "" {
		annotations[hook.AccessAnnotation] = c.narrowAccess
	}
	if c.narrowRefs != "" {
		annotations[hook.PushAnnotation] = c.narrowRefs
	}
	return annotations
}

func (c several) reads() bool   { return c.access == "read" || c.narrowAccess == "read" }
func (c several) appends() bool { return c.access == "append" || c.narrowAccess == "append" }

// branches returns the branches of a project to which the token may push, and others.
func (c several) branches(project, another string) (allowed, refused []string) {
	for _, branch := range []struct {
		name                 string
		byFlag, byAnnotation bool
	}{
		{project + "/7/a", true, true},
		{project + "/7/b", true, false},
		{project + "/8/a", false, true},
		{another + "/7/a", false, false},
	} {
		if (c.refs == "" || branch.byFlag) && (c.narrowRefs == "" || branch.byAnnotation) {
			allowed = append(allowed, branch.name)
		} else {
			refused = append(refused, branch.name)
		}
	}
	return allowed, refused
}

// client is git with one token.
type client struct {
	url func(project string) string          // of a repository
	git func(args ...string) (string, error) // runs it in the clone
}

// check tries in each project all that the token may do and may not.
func (c several) check(t *testing.T, h *harness, of client) {
	t.Helper()
	succeeds := func(args ...string) {
		t.Helper()
		if out, err := of.git(args...); err != nil {
			t.Errorf("git %q: %v\n%s", args, err, out)
		}
	}
	fails := func(words string, args ...string) {
		t.Helper()
		if out, err := of.git(args...); err == nil || !strings.Contains(out, words) {
			t.Errorf("git %q: %v; it does not say %q, but\n%s", args, err, words, out)
		}
	}
	push := func(project string, refspecs ...string) []string {
		return append([]string{"push", of.url(project)}, refspecs...)
	}

	moved, refused := map[string]int{}, map[string]int{}
	fails("the token is for another project", "ls-remote", of.url("other"))
	fails("the token is for another project", push("other", "main:x")...)
	refused["other"] = 2

	readable := []string{"lib"}
	if c.reads() {
		readable = []string{"lib", "tools", "demo"}
	}
	for _, project := range readable {
		succeeds("fetch", of.url(project), "main")
		says := "the token may fetch from this project and not push to it"
		if c.reads() {
			says = "the token may fetch and not push"
		}
		fails(says, push(project, "main:"+project+"/7/a")...)
		refused[project]++
	}

	for project, another := range map[string]string{"demo": "tools", "tools": "demo"} {
		if c.reads() {
			break
		}
		succeeds("fetch", of.url(project), "main")
		allowed, others := c.branches(project, another)
		var refspecs []string
		for _, branch := range allowed {
			refspecs = append(refspecs, "main:refs/heads/"+branch)
		}
		succeeds(push(project, refspecs...)...)
		moved[project] += len(allowed)
		says := "the token may push to refs/heads/" + project + "/"
		if c.refs != "" && c.narrowRefs != "" {
			says = "the token may push to refs that match both refs/heads/" + project + "/"
		}
		for _, branch := range others {
			fails(says, push(project, "main:refs/heads/"+branch)...)
			refused[project]++
		}
		for _, forcing := range []string{"+main~1:" + allowed[0], ":" + allowed[0]} {
			if c.appends() {
				fails("must not be deleted or forced", push(project, forcing)...)
				refused[project]++
			} else {
				succeeds(push(project, forcing)...)
				moved[project]++
			}
		}
		if there := git(t, filepath.Join(h.repos, project+".git"), "for-each-ref", "--format=x", "refs/heads/"); len(strings.Fields(there)) != 1+len(allowed) && c.appends() {
			t.Errorf("%s has %d branches, not main and the %d that are allowed", project, len(strings.Fields(there)), len(allowed))
		}
	}

	if t.Failed() {
		return // the lines would be waited for in vain
	}
	for event, want := range map[string]map[string]int{trail.Moved: moved, trail.Refused: refused} {
		number := 0
		for _, n := range want {
			number += n
		}
		if number == 0 {
			continue
		}
		got := map[string]int{}
		for _, e := range h.trailed(t, event, number) {
			got[e.Project] += max(1, e.Times)
			if e.Task != "7" {
				t.Errorf("the trail has %+v", e)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("lines of %s by project: %v, not %v", event, got, want)
		}
	}
}

// openSeveral opens a gate with the projects' repositories, which all have the same commits.
func openSeveral(t *testing.T) *harness {
	t.Helper()
	h := open(t, gate.Settings{})
	h.fillSeveral(t)
	return h
}

func (h *harness) fillSeveral(t *testing.T) {
	t.Helper()
	for _, project := range []string{"demo", "lib", "tools", "other"} {
		h.demo(t, project, 3)
	}
}

func TestWhatEveryCombinationAllowsInEachOfSeveralProjects(t *testing.T) {
	for _, c := range allSeveral() {
		if c.hashed == (c.refs != "") {
			continue // the next test tries it
		}
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			t.Parallel()
			h := openSeveral(t)
			if c.reads() {
				writes := c.annotations()
				writes[hook.ReadAnnotation], writes[hook.WriteAnnotation] = "lib", "tools"
				if token, err := h.tryContainerToken(t, c.flags(), writes); err == nil || token != "" {
					t.Errorf("a container that may only read gets a token that writes to the project tools, with the error %v", err)
				}
			}
			flags := c.flags()
			if c.reads() {
				flags = append(flags, "--allow-read", "tools")
			}
			token := h.containerToken(t, flags, c.annotations())

			work := filepath.Join(h.dir, "work")
			git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), work)
			c.check(t, h, client{
				url: func(project string) string { return h.url(token, project) },
				git: func(args ...string) (string, error) {
					out, err := command(work, args...).CombinedOutput()
					return string(out), err
				},
			})
		})
	}
}

// A container that does not know its token has the rights of its token in each project.
func TestAContainerThatWithholdsItsTokenUsesSeveralProjects(t *testing.T) {
	for _, c := range allSeveral() {
		if c.hashed != (c.refs != "") {
			continue // the test above tries it
		}
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			h := openSeveral(t)
			c.checkWithheld(t, h, h)
		})
	}
}

// The same holds if the repositories are elsewhere.
func TestAContainerThatWithholdsItsTokenUsesSeveralProjectsElsewhere(t *testing.T) {
	for _, c := range allSeveral() {
		if c.hashed != (c.refs != "") || c.narrowAccess != c.access {
			continue // the host's gate judges like any other gate, so these are enough
		}
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			var f *fleet
			f = openFleet(t, gate.Settings{}, gate.Settings{Trail: func(events ...trail.Event) error {
				return f.repos.note(events...) // check reads one trail for both gates: either may refuse a request
			}})
			f.mayVouch(t, "host-a=*")
			f.repos.fillSeveral(t)
			c.checkWithheld(t, f.host, f.repos)
		})
	}
}

// checkWithheld does what check does, for a container that withholds its token. h serves the
// container's network. repos has the repositories: it is h or another gate.
func (c several) checkWithheld(t *testing.T, h, repos *harness) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "git", "ip", "nsenter")
	told := h.takeHooks(t)
	h.containerToken(t, c.flags(), c.annotations())
	entries, err := h.tokens.Entries()
	must(t, err)
	h.revoke(t, "demo")

	inside := h.container(t, nil)
	inside.Grant, inside.Limits, inside.Also = entries[0].Grant, entries[0].Limits, entries[0].Also
	inside.Gate.Withheld = true
	if c.hashed {
		inside.Token = store.Token(inside.Token.Key())
	}
	h.start(t, told, inside)

	work := filepath.Join(h.dir, "work")
	url := func(project string) string { return "http://" + inside.Gate.Listen + "/" + project + ".git" }
	run := func(args ...string) (string, error) { return inside.git(work, args...) }
	if out, err := inside.git(h.dir, "clone", "--quiet", url("demo"), work); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	c.check(t, repos, client{url: url, git: run})
}

// The trail sums up a token's refused requests: separately for each of the token's projects, and
// together for all others.
func TestAFloodOfOneProjectsRequestsHidesNoOthers(t *testing.T) {
	h := openSeveral(t)
	token := h.containerToken(t, nil, map[string]string{hook.ReadAnnotation: "lib"})
	const pushes = "/info/refs?service=git-receive-pack"
	for range 30 {
		h.request(t, "GET", "/lib.git"+pushes, token, "")
	}
	h.request(t, "GET", "/other.git"+pushes, token, "")
	for i := range 20 {
		h.request(t, "GET", fmt.Sprintf("/none-%d.git%s", i, pushes), token, "")
	}

	events := h.trailed(t, trail.Refused, 51)
	times := map[string]int{}
	for _, e := range events {
		project := e.Project
		if project != "lib" {
			project = "not the token's"
		}
		times[project] += max(1, e.Times)
	}
	if times["lib"] != 30 || times["not the token's"] != 21 {
		t.Errorf("the lines stand for %v", times)
	}
	if len(events) > 30 {
		t.Errorf("there are %d lines", len(events))
	}
}

// If a token's other projects change, the next request is judged by the new ones.
func TestProjectsThatATokenGainsAndLosesCountFromTheNextRequestOn(t *testing.T) {
	h := openSeveral(t)
	entry := func(also string) { h.put(t, limitedToken, `{"project": "demo", "task": "7"`+also+`}`) }
	reaches := func(project string, service string) int {
		answer, _ := h.request(t, "GET", "/"+project+".git/info/refs?service="+service, limitedToken, "")
		return answer.StatusCode
	}
	for _, row := range []struct {
		also           string
		fetches, write []string
	}{
		{``, []string{"demo"}, []string{"demo"}},
		{`, "also": {"lib": "read"}`, []string{"demo", "lib"}, []string{"demo"}},
		{`, "also": {"lib": "write", "tools": "read"}`, []string{"demo", "lib", "tools"}, []string{"demo", "lib"}},
		{`, "also": {"lib": "admin"}`, []string{"demo"}, []string{"demo"}},
	} {
		entry(row.also)
		for _, project := range []string{"demo", "lib", "tools", "other"} {
			for service, allowed := range map[string][]string{"git-upload-pack": row.fetches, "git-receive-pack": row.write} {
				want := http.StatusForbidden
				if slices.Contains(allowed, project) {
					want = http.StatusOK
				}
				if code := reaches(project, service); code != want {
					t.Errorf("with %q, %s of %s is answered %d", row.also, service, project, code)
				}
			}
		}
	}
}

// If a token has other projects, the programs that the gate replaces serve only the token's own
// project. They do not serve limited or hashed tokens at all.
func TestAnotherGateServesATokensOwnProjectAlone(t *testing.T) {
	both := map[string]string{hook.ReadAnnotation: "lib", hook.WriteAnnotation: "tools"}
	for i, version := range versions {
		for name, kind := range kinds {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				annotations := both
				if strings.Contains(name, "read only") {
					annotations = map[string]string{hook.ReadAnnotation: "lib tools"}
				}
				h := openSeveral(t)
				token := h.containerToken(t, kind.flags, annotations)
				for _, project := range []string{"demo", "lib", "tools"} {
					git(t, h.dir, "ls-remote", h.url(token, project))
				}

				h.address = h.retire(t, version)
				for _, project := range []string{"demo", "lib", "tools", "other"} {
					out, err := command(h.dir, "ls-remote", h.url(token, project)).CombinedOutput()
					if served := err == nil; served != (kind.serve[i] && project == "demo") {
						t.Errorf("it serves %s: %v\n%s", project, served, out)
					}
				}

				// Entries that the other gate keeps when it writes the file also keep their projects.
				var before, after struct {
					Also    map[string]string
					Limited json.RawMessage
				}
				read := func(into any) (there bool) {
					entries := map[string]json.RawMessage{}
					text, err := readFile(h.tokens.Path)
					must(t, err)
					must(t, json.Unmarshal([]byte(text), &entries))
					for _, key := range []string{token, store.Token(token).Key()} {
						if entry, is := entries[key]; is {
							must(t, json.Unmarshal(entry, into))
							return true
						}
					}
					return false
				}
				read(&before)
				run(t, retired(t, "create", h.tokens.Path, version, "other", "1"))
				if kept := read(&after); kept != kind.keep[i] {
					t.Fatalf("it keeps the entry: %v", kept)
				}
				if kind.keep[i] && (len(after.Also) != 2 || fmt.Sprint(before.Also) != fmt.Sprint(after.Also)) {
					t.Errorf("of the projects %v it leaves %v", before.Also, after.Also)
				}
			})
		}
	}
}
