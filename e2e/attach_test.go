package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gofrs/flock"

	"terok-gate-hook/internal/testenv"
)

// The gate listens in each container's own network namespace, so git needs no network.

// servedEngine is an engine with a gate that serves its containers in their networks.
type servedEngine struct {
	*engine
	repos, control, log string
	gate                *exec.Cmd
}

// served returns the engine with a token file and a gate of its own, and with hooks that
// know the gate and have these flags, too.
func (e *engine) served(t *testing.T, flags ...string) *servedEngine {
	t.Helper()
	testenv.Need(t, "git")
	dir := e.tempDir(t)
	s := &servedEngine{
		engine: e.withOwnTokens(t),
		repos:  filepath.Join(dir, "repos"), control: filepath.Join(dir, "gate", "control"), log: filepath.Join(dir, "log"),
	}
	s.add(t, "demo", nil)
	s.add(t, "other", nil)
	s.startGate(t)
	t.Cleanup(s.endGate)
	s.changeHooks(t, flags...)
	return s
}

// add adds a project with one commit, and returns the commit. fill may stage files for it.
func (s *servedEngine) add(t *testing.T, project string, fill func(source string)) (commit string) {
	t.Helper()
	source := t.TempDir()
	for parent := source; parent != os.TempDir() && parent != "/"; parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	git(t, "init", "--quiet", "--initial-branch=main", source)
	if fill != nil {
		fill(source)
	}
	git(t, "-C", source, "commit", "--quiet", "--allow-empty", "--message", "begin")

	binary, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.run(binary, "add", "--repos", s.repos, project, source); err != nil {
		t.Fatal(err)
	}
	return git(t, "-C", source, "rev-parse", "HEAD")
}

// changeHooks gives later containers hooks with other flags, for the same gate.
func (s *servedEngine) changeHooks(t *testing.T, flags ...string) {
	t.Helper()
	flags = append([]string{"--gate-socket", s.control}, flags...)
	s.engine = s.withHooks(t, hookFlags{prestart: flags}, func(dir string) error { return s.addPrecreate(dir, flags...) })
}

func (s *servedEngine) startGate(t *testing.T) {
	t.Helper()
	binary, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	like, cancel := s.command(binary, "--token-file", s.tokenFile, "--log-file", s.log, "serve", "--repos", s.repos, "--control", s.control)
	cancel() // "like" is only a model: it would be killed after a minute, and the gate runs longer
	s.gate = exec.Command(like.Path, like.Args[1:]...)
	s.gate.Dir, s.gate.Env, s.gate.SysProcAttr = like.Dir, like.Env, like.SysProcAttr
	s.gate.Stderr = os.Stderr
	if err := s.gate.Start(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the gate listens to hooks", func() bool {
		_, err := os.Stat(s.control)
		return err == nil
	})
}

// endGate ends the gate as a service manager would.
func (s *servedEngine) endGate() { s.signalGate(syscall.SIGTERM) }

func (s *servedEngine) signalGate(signal syscall.Signal) {
	if s.gate != nil {
		_ = s.gate.Process.Signal(signal)
		_ = s.gate.Wait()
		s.gate = nil
	}
}

// git runs git in the repository of a project.
func (s *servedEngine) git(t *testing.T, project string, args ...string) string {
	t.Helper()
	return git(t, append([]string{"-c", "safe.directory=*", "--git-dir", filepath.Join(s.repos, project+".git")}, args...)...)
}

// inside runs a script in the container, as its own user, with gate.env sourced.
func (c *container) inside(script string) error {
	_, err := c.tryPodman("exec", c.id, "sh", "-ec", "set -a; . /run/terok/gate.env; "+script)
	return err
}

// gitWork returns a shell script that does what people use git for: a clone, a commit and a
// push to a branch of its own. The script also checks that the gate refuses another
// project.
func gitWork(branch string) string {
	return strings.ReplaceAll(`cd /dev/shm; git clone --quiet http://127.0.0.1:9418/demo.git BRANCH; cd BRANCH
		git switch --quiet --create BRANCH; git commit --quiet --allow-empty --message "by BRANCH"; git push --quiet origin BRANCH
		! git ls-remote http://127.0.0.1:9418/other.git`, "BRANCH", branch)
}

// worked checks that the gate has the commit that gitWork pushes to a branch.
func (s *servedEngine) worked(t *testing.T, branch string) {
	t.Helper()
	if got := s.git(t, "demo", "log", "-1", "--format=%s", branch); got != "by "+branch {
		t.Errorf("the last commit at the gate is %q", got)
	}
}

// worksIn checks that gitWork succeeds in the container.
func (s *servedEngine) worksIn(t *testing.T, c *container, branch string) {
	t.Helper()
	if err := c.inside(`test $CODE_REPO = http://127.0.0.1:9418/demo.git; ` + gitWork(branch)); err != nil {
		t.Fatal(err)
	}
	s.worked(t, branch)
}

// gitter returns the arguments of a container that has our annotations, git, and in its
// environment a proxy that does not answer.
func gitter(t *testing.T, task string, more ...string) []string {
	t.Helper()
	args := append(annotations("demo", task), withGitAlone(t)...)
	args = append(args, "--env", "GIT_AUTHOR_NAME=task", "--env", "GIT_COMMITTER_NAME=task", "--env", "http_proxy=http://127.0.0.1:1")
	return append(args, more...)
}

// The main job, in every kind of container. Git works in the container's own process with
// nothing sourced, and in podman exec with gate.env sourced. If the token is withheld, git
// works in podman exec with nothing sourced, too.
func TestGitWorksInAContainerOfAnyKind(t *testing.T) {
	ofRoot := func(e *engine) bool { return !e.rootless }
	ofAUser := func(e *engine) bool { return e.rootless }

	for _, row := range []struct {
		name    string
		args    []string
		network string             // none if empty
		needs   string             // a program that the network needs
		on      func(*engine) bool // nil: those of crunAndRunc
		podmans
	}{
		{name: "without a network"},
		{name: "in a bridge", network: "bridge"},
		{name: "with slirp4netns", network: "slirp4netns", needs: "slirp4netns", podmans: podmans{until: [2]int{6, 0}}},
		{name: "with pasta", network: "pasta", needs: "pasta", on: ofAUser, podmans: podmans{since: [2]int{4, 4}}},
		{name: "read-only, as another user without capabilities", args: []string{"--read-only", "--user", "1234:55", "--cap-drop=all"}},
		{name: "with mapped ids", args: []string{"--uidmap", "0:1001:5000", "--gidmap", "0:2001:5000", "--user", "1234:55"}, on: ofRoot},
		// A rootless container with --userns=keep-id leaves no ids for --userns=auto.
		{name: "with ids of its own", args: []string{"--userns=auto"}, on: ofRoot},
		{name: "with the user's own id", args: []string{"--userns=keep-id"}, on: ofAUser},
	} {
		if !row.haveOurs(t) {
			continue
		}

		t.Run(row.name, func(t *testing.T) {
			on := row.on
			if on == nil {
				on = crunAndRunc(t)
			}
			onEngines(t, func(t *testing.T, e *engine) {
				args := gitter(t, "task", row.args...)
				if row.network != "" {
					e = e.wired(t, row.needs)
					args = append(args, "--network", row.network)
				}

				s := e.served(t)
				s.podman(t, append(append([]string{"run", "--rm"}, args...), image, "sh", "-ec", gitWork("its-own"))...)
				s.worked(t, "its-own")

				c := s.create(t, args...)
				c.start(t)
				s.worksIn(t, c, "in-exec")

				s.changeHooks(t, "--withhold-token")
				c = s.create(t, args...)
				if token := c.start(t).token; token != "" {
					t.Error("there is a token in the container")
				}
				c.podman(t, "exec", c.id, "sh", "-ec", "unset http_proxy; "+gitWork("withheld"))
				s.worked(t, "withheld")
			}, on)
		})
	}
}

// The gate serves a container before the container's first process does anything.
func TestACloneIsTheFirstThingThatManyContainersDo(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		var crowd sync.WaitGroup
		for worker := range 2 {
			crowd.Go(func() {
				for n := range 13 {
					args := append([]string{"run", "--rm"}, gitter(t, fmt.Sprintf("task-%d-%d", worker, n))...)
					_, err := s.tryPodman(append(args, image, "git", "clone", "--quiet", "http://127.0.0.1:9418/demo.git", "/dev/shm/demo")...)
					report(t, err)
				}
			})
		}
		crowd.Wait()
		testenv.Eventually(t, "all tokens are revoked", func() bool { return len(s.tokens(t)) == 0 })
	})
}

func TestContainersThatShareANetworkAreServedByOneListener(t *testing.T) {
	for _, row := range []struct {
		name  string
		wired bool
		join  func(t *testing.T, s *servedEngine) []string
	}{
		{"a pod", false, func(t *testing.T, s *servedEngine) []string { return []string{"--pod", s.pod(t, "none")} }},
		{"a pod in a bridge", true, func(t *testing.T, s *servedEngine) []string { return []string{"--pod", s.pod(t, "bridge")} }},
		{"--network container:", false, func(t *testing.T, s *servedEngine) []string {
			return []string{"--network", "container:" + s.startedHost(t)}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			onCrunAndRunc(t, func(t *testing.T, e *engine) {
				if row.wired {
					e = e.wired(t, "")
				}
				s := e.served(t)
				join := row.join(t, s)
				one := s.create(t, gitter(t, "one", join...)...)
				other := s.create(t, gitter(t, "other", join...)...)

				var wg sync.WaitGroup // two hooks at once
				for _, c := range []*container{one, other} {
					wg.Go(func() { _, err := c.tryPodman("start", c.id); report(t, err) })
				}
				wg.Wait()
				if t.Failed() {
					return
				}

				one.nextLife(t)
				token := other.nextLife(t).token
				s.worksIn(t, one, "one")
				s.worksIn(t, other, "other")

				other.podman(t, "stop", other.id)
				other.revoked(t, token)
				s.worksIn(t, one, "one-alone")

				other.start(t)
				s.worksIn(t, other, "other-again")
			})
		})
	}
}

func report(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestWhereTheTokenIsWithheldEveryProcessHasGitWithNothingSourced(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		s := e.served(t, "--withhold-token")
		c := s.create(t, gitter(t, "task")...)
		l := c.start(t)

		if env := strings.Join(l.env, "\n"); strings.Contains(env, "TOKEN") || !strings.Contains(env, "CODE_REPO=http://127.0.0.1:9418/demo.git") {
			t.Errorf("gate.env is %s", env)
		}

		tokens := c.tokensOf(t, c.id)
		if len(tokens) != 1 {
			t.Fatalf("the container has %d tokens", len(tokens))
		}
		if _, err := c.tryPodman("exec", c.id, "sh", "-c", "grep -rlF terok-g- /run/terok /proc/1/environ"); err == nil {
			t.Error("there is a token in the container")
		}

		for branch, user := range map[string]string{"of-root": "0", "of-another": "1234:55"} {
			c.podman(t, "exec", "--user", user, c.id, "sh", "-ec", "unset http_proxy; "+gitWork(branch))
			s.worked(t, branch)
		}

		c.podman(t, "stop", c.id)
		c.revoked(t, tokens[0])

		for _, row := range []struct {
			name string
			args []string
		}{
			{"a pod", []string{"--pod", s.pod(t, "none")}},
			{"another's network", []string{"--network", "container:" + s.startedHost(t)}},
		} {
			refused := s.create(t, gitter(t, "task", row.args...)...)
			if _, err := refused.tryPodman("start", refused.id); err == nil {
				t.Errorf("%s: it starts", row.name)
			}
			if tokens := refused.tokensOf(t, refused.id); len(tokens) > 0 {
				t.Errorf("%s: it has %d tokens", row.name, len(tokens))
			}
		}
	})
}

// startedHost starts a container whose network others can join, and returns its id.
func (s *servedEngine) startedHost(t *testing.T) string {
	t.Helper()
	c := s.create(t)
	s.podman(t, "start", c.id)
	return c.id
}

// A start that is refused says why, and what to do.
func TestAContainerThatTheGateCannotServeDoesNotStart(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		neighbour := s.create(t, "--network", "none")
		s.podman(t, "start", neighbour.id)
		s.podman(t, "exec", neighbour.id, "httpd", "-p", "127.0.0.1:9418") // in the background

		refuse := func(task, log string, args ...string) {
			t.Helper()
			c := s.create(t, gitter(t, task, args...)...)
			_, err := c.tryPodman("start", c.id)
			if err == nil {
				t.Errorf("%s: it starts", task)
			}
			if tokens := c.tokensOf(t, c.id); len(tokens) > 0 {
				t.Errorf("%s: it has %d tokens", task, len(tokens))
			}

			if systemLog.Listening() {
				if got := systemLog.SoFar(t, with(c.id, log)); len(got) == 0 {
					t.Errorf("%s: the log does not say %q", task, log)
				}
			}
		}

		refuse("hostile", "another program in the container's network uses the gate's address", "--network", "container:"+neighbour.id)
		refuse("host", "give the container a network of its own, as --network none does", "--network", "host")

		s.endGate()
		refuse("no-gate", "start it, as the service terok-gate or with terok-gate serve")
		s.startGate(t)
		c := s.create(t, gitter(t, "again")...)
		c.start(t)
		s.worksIn(t, c, "again")
	})
}

// Without a service manager, a gate that is killed loses its listeners, and attach makes
// new ones.
func TestAGateThatWasKilledServesTheLivingAgain(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		pod := s.pod(t, "none")
		containers := []*container{
			s.create(t, gitter(t, "alone")...), s.create(t, gitter(t, "one", "--pod", pod)...), s.create(t, gitter(t, "other", "--pod", pod)...),
		}
		for _, c := range containers {
			c.start(t)
		}

		// When the gate dies, the hook of the last container has the gate's answer and
		// waits to write the token.
		between := s.create(t, gitter(t, "between", "--user", "1234:55")...)
		lock := flock.New(s.tokenFile + ".lock")
		if err := lock.Lock(); err != nil {
			t.Fatal(err)
		}

		started := make(chan error, 1)
		go func() {
			_, err := between.tryPodman("start", between.id)
			started <- err
		}()

		testenv.Eventually(t, "its hook waits for the lock", func() bool { return waitsForLock(t, lock.Path()) })
		s.signalGate(syscall.SIGKILL)
		if err := lock.Unlock(); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}

		between.nextLife(t)
		containers = append(containers, between)
		for _, c := range containers {
			if c.inside("git ls-remote $CODE_REPO") == nil {
				t.Error("there is no gate, but git works")
			}
		}

		s.startGate(t)
		for range 2 { // a second attach changes nothing
			out, err := s.runTerokGate(t, "attach", "--gate-socket", s.control)
			if err != nil || out != "attached 4\n" {
				t.Errorf("attach says %q, %v", out, err)
			}
		}
		for i, c := range containers {
			s.worksIn(t, c, fmt.Sprintf("again-%d", i))
		}
	})
}

// waitsForLock reports whether a process waits for the lock of a file (proc_locks(5)).
func waitsForLock(t *testing.T, path string) bool {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(readFile(t, "/proc/locks")) {
		if strings.Contains(line, " -> ") && strings.Contains(line, inode) {
			return true
		}
	}
	return false
}

func TestAContainersNetworkEndsWithTheContainer(t *testing.T) {
	onRootsEngines(t, func(t *testing.T, e *engine) {
		s := e.served(t)
		c := s.create(t, gitter(t, "task")...)
		for range 3 {
			c.start(t)
			pid := c.pid(t)
			name := fmt.Sprintf("e2e%d", pid)
			out, err := exec.Command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth9", "netns", fmt.Sprint(pid)).CombinedOutput()
			if err != nil {
				t.Fatalf("ip link add: %v\n%s", err, out)
			}
			s.worksIn(t, c, fmt.Sprintf("life-%d", pid))
			c.podman(t, "stop", c.id)
			// The kernel removes one end of the cable with the network, and the other end
			// with the first.
			testenv.Eventually(t, "its network is gone", func() bool {
				return exec.CommandContext(context.Background(), "ip", "link", "show", name).Run() != nil
			})
		}
	})
}
