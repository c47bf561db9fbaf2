package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// A container without a network uses several projects: its own, demo, and others beside it.

// withProjects adds the projects lib and tools to a gate that has demo and other.
func (s *servedEngine) withProjects(t *testing.T) {
	t.Helper()
	s.add(t, "lib", nil)
	s.add(t, "tools", nil)
}

// usedProjects returns the projects that the one living container may use, as terok-gate says.
func (s *servedEngine) usedProjects(t *testing.T) string {
	t.Helper()
	binary, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.run(binary, "--token-file", s.tokenFile, "projects", "--repos", s.repos, "--json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Project    string
		Containers int
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, p := range all {
		if p.Containers == 1 {
			used = append(used, p.Project)
		}
	}
	return strings.Join(used, " ")
}

// The rows say what a container may do in its own project, in those to read and in those to
// write, with limits and with hashed and withheld tokens. The test goes from podman's command line
// to git's.
func TestWhatAContainerMayDoInEachOfItsProjects(t *testing.T) {
	const fetches = "demo lib tools"
	read, write := "terok.read=lib", "terok.write=tools"
	own := "TEROK_ACCESS=write"
	for _, row := range []struct {
		name        string
		flags       []string
		annotations []string
		fetches     string // projects, of demo, lib, tools and other
		pushes      string // project:branch, where the branch is a new one
		refused     string
		env         string // lines of gate.env
		withheld    bool
	}{
		{name: "its own", fetches: "demo", pushes: "demo:x", refused: "lib:x tools:x other:x", env: own},
		{name: "one to read", annotations: []string{read}, fetches: "demo lib", pushes: "demo:x", refused: "lib:x tools:x", env: own + " TEROK_READ=lib"},
		{name: "one to read, one to write", annotations: []string{read, write}, fetches: fetches, pushes: "demo:x tools:x", refused: "lib:x other:x",
			env: own + " TEROK_READ=lib TEROK_WRITE=tools"},
		{name: "two to read", annotations: []string{"terok.read=lib tools"}, fetches: fetches, pushes: "demo:x", refused: "lib:x tools:x",
			env: own + " TEROK_READ=lib,tools"},
		{name: "all read only", flags: []string{"--access", "read"}, annotations: []string{"terok.read=lib tools"}, fetches: fetches, refused: "demo:x lib:x tools:x",
			env: "TEROK_ACCESS=read TEROK_READ=lib,tools"},
		{name: "append to all", annotations: []string{read, write, "terok.access=append"}, fetches: fetches, pushes: "demo:x tools:x", refused: "demo:+main tools:+main lib:x",
			env: "TEROK_ACCESS=append TEROK_READ=lib TEROK_WRITE=tools"},
		{name: "branches of each project", flags: []string{"--push", "refs/heads/{project}/{task}/*"}, annotations: []string{read, write}, fetches: fetches,
			pushes: "demo:demo/7/x tools:tools/7/x", refused: "demo:tools/7/x tools:demo/7/x demo:x tools:x lib:lib/7/x",
			env: own + " TEROK_PUSH=refs/heads/demo/7/* TEROK_READ=lib TEROK_WRITE=tools"},
		{name: "hashed", flags: []string{"--hashed"}, annotations: []string{read, write}, fetches: fetches, pushes: "demo:x tools:x", refused: "lib:x", env: own},
		{name: "hashed, a branch", flags: []string{"--hashed"}, annotations: []string{read, write, "terok.push=refs/heads/{project}"}, fetches: fetches,
			pushes: "demo:demo tools:tools", refused: "demo:tools tools:demo lib:lib", env: own},
		{name: "withheld", flags: []string{"--withhold-token"}, annotations: []string{read, write}, fetches: fetches, pushes: "demo:x tools:x", refused: "lib:x other:x",
			env: own, withheld: true},
		{name: "withheld and hashed, branches of each project", flags: []string{"--withhold-token", "--hashed", "--access", "append", "--push", "refs/heads/{project}/*"},
			annotations: []string{read, write}, fetches: fetches, pushes: "demo:demo/x tools:tools/x", refused: "demo:x tools:demo/x lib:lib/x",
			env: "TEROK_ACCESS=append", withheld: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			onRootOrRootless(t, func(t *testing.T, e *engine) {
				s := e.served(t)
				s.withProjects(t)
				s.changeHooks(t, append([]string{"--allow-project", "demo", "--allow-project", "tools", "--allow-read", "lib"}, row.flags...)...)
				args := gitter(t, "7")
				for _, annotation := range row.annotations {
					args = append(args, "--annotation", annotation)
				}
				c := s.create(t, args...)
				l := c.start(t)
				if withheld := l.token == ""; withheld != row.withheld {
					t.Errorf("the token is withheld: %v", withheld)
				}
				for _, line := range strings.Fields(row.env + " CODE_REPO=http://127.0.0.1:9418/demo.git") {
					if count(l.env, line) != 1 {
						t.Errorf("gate.env has no line %s, but %q", line, l.env)
					}
				}

				for _, project := range []string{"demo", "lib", "tools", "other"} {
					err := c.inside("git ls-remote --exit-code $TEROK_GATE_URL/" + project + ".git main")
					if fetched := err == nil; fetched != strings.Contains(" "+row.fetches+" ", " "+project+" ") {
						t.Errorf("the wrong result of fetching %s: %v", project, err)
					}
				}

				if listed, want := s.usedProjects(t), row.fetches; listed != want {
					t.Errorf("the gate lists a container for the projects %q, not for %q", listed, want)
				}

				if err := c.inside(`cd /dev/shm; git clone --quiet $CODE_REPO work; cd work; git commit --quiet --allow-empty --message work`); err != nil {
					t.Fatal(err)
				}
				push := func(what string) error {
					project, branch, _ := strings.Cut(what, ":")
					refspec := "main:refs/heads/" + branch
					if branch == "+main" { // a forced push, which replaces what is there
						refspec = "+forced:refs/heads/main"
					}
					return c.inside(fmt.Sprintf(`cd /dev/shm/work
						git branch --quiet --force forced $(git commit-tree -m forced main^{tree})
						git push --quiet $TEROK_GATE_URL/%s.git %s`, project, refspec))
				}
				for _, what := range strings.Fields(row.pushes) {
					if err := push(what); err != nil {
						t.Errorf("push %s: %v", what, err)
					}
					project, branch, _ := strings.Cut(what, ":")
					if got := s.git(t, project, "log", "-1", "--format=%s", "refs/heads/"+branch); got != "work" {
						t.Errorf("%s: the last commit is %q", what, got)
					}
				}
				for _, what := range strings.Fields(row.refused) {
					project, _, _ := strings.Cut(what, ":")
					before := s.git(t, project, "for-each-ref")
					if err := push(what); err == nil {
						t.Errorf("push %s succeeds", what)
					}
					if after := s.git(t, project, "for-each-ref"); after != before {
						t.Errorf("push %s: the refs are\n%s\nand were\n%s", what, after, before)
					}
				}
			})
		})
	}
}

// A container does not start if its annotations go beyond the operator's flags.
func TestAContainerThatAsksForProjectsThatItMayNotHaveDoesNotStart(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		s.changeHooks(t, "--allow-project", "demo", "--allow-project", "tools", "--allow-read", "lib", "--access", "read")
		for annotation, says := range map[string]string{
			"terok.write=lib":         `project \"lib\" is not among those that are admitted by --allow-project`,
			"terok.read=other":        `project \"other\" is not among those that are admitted for reading by --allow-read or --allow-project`,
			"terok.write=tools":       `annotation terok.write: the container's access is read: use terok.read`,
			"terok.read=demo":         `project \"demo\" is the container's own`,
			"terok.read=tools  tools": `project \"tools\" is named twice`,
			"terok.reads=tools":       `annotation \"terok.reads\" is not known`,
		} {
			c := s.create(t, append(gitter(t, "7"), "--annotation", annotation)...)
			if _, err := c.tryPodman("start", c.id); err == nil {
				t.Errorf("with %s it starts", annotation)
			}
			if len(c.tokensOf(t, c.id)) > 0 {
				t.Errorf("with %s it has a token", annotation)
			}
			if systemLog.Listening() {
				if _, logged := systemLog.Wait(with("refused", c.id, says)); !logged {
					t.Errorf("with %s the log does not have %s", annotation, says)
				}
			}
		}
	})
}

const forge = "https://forge.example/org/"

// addresses is a file with the addresses of four projects.
const addresses = `{
	"app": {"source": "` + forge + `app", "scheme": "https", "host": "forge.example", "path": "org/app"},
	"lib": {"source": "git@forge.example:org/lib.git", "scheme": "ssh", "host": "forge.example", "path": "org/lib"},
	"tools": {"source": "ssh://git@forge.example:2222/org/tools", "scheme": "ssh", "host": "forge.example", "port": "2222", "path": "org/tools"},
	"other": {"source": "` + forge + `other", "scheme": "https", "host": "forge.example", "path": "org/other"}
}`

// write writes a file as the engine's user.
func (e *engine) write(t *testing.T, path, content string) {
	t.Helper()
	if _, err := e.run("sh", "-ec", `umask 077; printf %s "$2" >"$1"`, "sh", path, content); err != nil {
		t.Fatal(err)
	}
}

// A container without a network clones by the address that its project has at a forge. Submodules
// are cloned the same way, and Go gets a module that way.
func TestAContainerWithoutANetworkUsesTheForgesAddresses(t *testing.T) {
	for name, flags := range map[string][]string{"with a token": nil, "with its token withheld": {"--withhold-token"}} {
		t.Run(name, func(t *testing.T) {
			onRootAndRootless(t, func(t *testing.T, e *engine) {
				s := e.served(t)
				lib := s.add(t, "lib", func(source string) {
					for name, text := range map[string]string{
						"go.mod": "module forge.example/org/lib.git\n\ngo 1.21\n", "lib.go": "package lib\n",
					} {
						if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
							t.Fatal(err)
						}
					}
					git(t, "-C", source, "add", ".")
				})
				tools := s.add(t, "tools", nil)
				s.add(t, "app", func(source string) {
					modules := ""
					for path, url := range map[string]string{"lib": forge + "lib.git", "tools": "ssh://git@forge.example:2222/org/tools.git", "beside": "../lib"} {
						modules += fmt.Sprintf("[submodule %q]\n\tpath = %s\n\turl = %s\n", path, path, url)
					}
					if err := os.WriteFile(filepath.Join(source, ".gitmodules"), []byte(modules), 0o644); err != nil {
						t.Fatal(err)
					}
					git(t, "-C", source, "add", ".")
					for path, commit := range map[string]string{"lib": lib, "tools": tools, "beside": lib} {
						git(t, "-C", source, "update-index", "--add", "--cacheinfo", "160000,"+commit+","+path)
					}
				})
				file := filepath.Join(s.tempDir(t), "projects.json")
				s.write(t, file, addresses)
				s.changeHooks(t, append([]string{"--projects", file}, flags...)...)

				args := append(gitter(t, "7"), "--annotation", "terok.project=app", "--annotation", "terok.read=lib", "--annotation", "terok.write=tools")
				c := s.create(t, args...)
				c.start(t)
				for _, script := range []string{
					`git clone --quiet --recurse-submodules ` + forge + `app /dev/shm/app
						cd /dev/shm/app; test -f lib/lib.go; test -f beside/lib.go; test "$(git -C tools log -1 --format=%s)" = begin`,
					`cd /dev/shm/app; git commit --quiet --allow-empty --message "by address"; git push --quiet origin HEAD:refs/heads/by-address`,
					`cd /dev/shm/app/tools; git commit --quiet --allow-empty --message "by address"; git push --quiet origin HEAD:refs/heads/by-address`,
					`! git -C /dev/shm/app/lib push --quiet origin HEAD:refs/heads/by-address`,
					`git ls-remote --exit-code git@forge.example:org/lib main; git ls-remote --exit-code ssh://git@forge.example/org/lib.git main`,
					`git -C /dev/shm/app config remote.origin.url | grep -x ` + forge + `app`,
					`! git ls-remote ` + forge + `library`,
					`! git ls-remote ` + forge + `other`,
				} {
					if err := c.inside(script); err != nil {
						t.Errorf("%s: %v", script, err)
					}
				}
				for _, project := range []string{"app", "tools"} {
					if got := s.git(t, project, "log", "-1", "--format=%s", "by-address"); got != "by address" {
						t.Errorf("%s: the last commit is %q", project, got)
					}
				}

				compiler, err := goBelowUsr()
				if err != nil {
					testenv.Cannot(t, "no Go module is downloaded: %v", err)
				}
				if err := c.inside(`export GOTOOLCHAIN=local GOPATH=/dev/shm/go GOCACHE=/dev/shm/cache GOFLAGS=-mod=mod
					mkdir /dev/shm/module; cd /dev/shm/module; printf 'module example.org/x\n\ngo 1.21\n' >go.mod
					` + compiler + ` mod download -x forge.example/org/lib.git@main; test -f /dev/shm/go/pkg/mod/forge.example/org/lib.git@*/lib.go`); err != nil {
					t.Errorf("go mod download: %v", err)
				}
			})
		})
	}
}

// By every form of a project's address, git fetches from the project and pushes to it, and not to
// another project whose name begins alike.
func TestEveryFormOfAnAddressFetchesAndPushes(t *testing.T) {
	forms := map[string][]string{
		"lib": {
			"https://forge.example/org/lib", "https://forge.example/org/lib.git", "https://git@forge.example/org/lib.git",
			"https://forge.example:443/org/lib", "ssh://git@forge.example/org/lib", "ssh://git@forge.example:22/org/lib.git",
			"ssh://forge.example/org/lib.git", "git@forge.example:org/lib", "git@forge.example:org/lib.git", "forge.example:org/lib.git", "git@forge.example:/org/lib.git",
		},
		"library": {
			"https://forge.example/org/library", "https://forge.example/org/library.git", "git@forge.example:org/library", "git@forge.example:org/library.git",
			"me@forge.example:org/library.git", "ssh://me@forge.example/org/library",
		},
		"ported": {"ssh://git@forge.example:2222/org/ported", "ssh://git@forge.example:2222/org/ported.git", "https://forge.example/org/ported.git"},
	}
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		for project := range forms {
			s.add(t, project, func(source string) { git(t, "-C", source, "commit", "--quiet", "--allow-empty", "--message", project) })
		}
		file := filepath.Join(s.tempDir(t), "projects.json")
		s.write(t, file, `{
			"lib": {"source": "https://forge.example/org/lib", "scheme": "https", "host": "forge.example", "path": "org/lib"},
			"library": {"source": "me@forge.example:org/library.git", "scheme": "ssh", "host": "forge.example", "path": "org/library"},
			"ported": {"source": "ssh://git@forge.example:2222/org/ported", "scheme": "ssh", "host": "forge.example", "port": "2222", "path": "org/ported"}
		}`)
		s.changeHooks(t, "--projects", file)
		c := s.create(t, append(gitter(t, "7"), "--annotation", "terok.write=lib library ported")...)
		c.start(t)

		for project, addresses := range forms {
			for i, address := range addresses {
				branch := fmt.Sprintf("by-form-%d", i)
				if err := c.inside(fmt.Sprintf(`rm -rf /dev/shm/work; git clone --quiet %s /dev/shm/work; cd /dev/shm/work
					test "$(git log -1 --skip 1 --format=%%s)" = %s; git push --quiet origin HEAD:refs/heads/%s; git fetch --quiet %[1]s %[3]s`, address, project, branch)); err != nil {
					t.Errorf("%s: %v", address, err)
				}
			}
			if got := strings.Fields(s.git(t, project, "for-each-ref", "--format=%(refname)", "refs/heads/by-form-*")); len(got) != len(addresses) {
				t.Errorf("%s: after %d pushes there are the branches %q", project, len(addresses), got)
			}
		}
		for _, address := range []string{"https://forge.example/org/libr", "git@forge.example:org/lib-2.git", "ssh://forge.example:2222/org/port"} {
			if err := c.inside("! git ls-remote " + address); err != nil {
				t.Errorf("%s leads somewhere: %v", address, err)
			}
		}
	})
}

// goBelowUsr returns the path of a go program below /usr, which is mounted into the containers.
func goBelowUsr() (path string, err error) {
	for _, path := range []string{"/usr/local/go/bin/go", "/usr/bin/go"} {
		if real, err := filepath.EvalSymlinks(path); err == nil && strings.HasPrefix(real, "/usr/") {
			return path, nil
		}
	}
	return "", fmt.Errorf("go is neither in /usr/local/go/bin nor in /usr/bin")
}

// No fault of the file of addresses keeps a container from starting. The log says what the
// container lacks.
func TestAContainerStartsWithoutAddressesThatCannotBeRead(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		dir := s.tempDir(t)
		for name, row := range map[string]struct {
			content, mode string
			says          string
		}{
			"missing":            {"", "", "no such file or directory"},
			"broken":             {"{", "600", "unexpected end of JSON input"},
			"writable by others": {addresses, "666", "others can write it"},
		} {
			file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".json")
			if row.mode != "" {
				s.write(t, file, row.content)
				if _, err := s.run("chmod", row.mode, file); err != nil {
					t.Fatal(err)
				}
			}
			s.changeHooks(t, "--projects", file)
			c := s.create(t, gitter(t, "7")...)
			c.start(t)
			if err := c.inside("git ls-remote --exit-code $CODE_REPO main; ! grep insteadOf /run/terok/gitconfig"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if systemLog.Listening() {
				if _, logged := systemLog.Wait(with("lacking", c.id, file, row.says)); !logged {
					t.Errorf("%s: the log does not say so", name)
				}
			}
		}
	})
}
