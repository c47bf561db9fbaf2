package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// A token is valid exactly while its container lives: on every engine, for every kind of
// container, however the container ends.

// kinds of containers.
var kinds = []struct {
	name  string
	only  string // "root" or "rootless", if it makes sense for one alone
	args  []string
	given func(t *testing.T, e *engine) (args []string) // makes what it needs, and returns the arguments for that
}{
	{name: "an imported image"},
	{name: "--user 1234:55", args: []string{"--user", "1234:55"}},
	{name: "--read-only", args: []string{"--read-only"}},
	{name: "--read-only without a tmpfs", args: []string{"--read-only", "--read-only-tmpfs=false"}},
	{name: "--tmpfs /run", args: []string{"--tmpfs", "/run"}},
	{name: "--uidmap and --gidmap", args: []string{"--uidmap", "0:1001:5000", "--gidmap", "0:2001:5000"}},
	{name: "--uidmap and --user", args: []string{"--uidmap", "0:1001:5000", "--gidmap", "0:2001:5000", "--user", "1234:55"}},
	{name: "--userns=keep-id", only: "rootless", args: []string{"--userns=keep-id"}},
	{name: "--privileged", args: []string{"--privileged"}},
	{name: "--privileged --user 1234:55", args: []string{"--privileged", "--user", "1234:55"}},
	{name: "--rootfs", given: func(t *testing.T, e *engine) []string {
		return []string{"--rootfs", e.rootfs(t)}
	}},
	{name: "--userns=container:", given: func(t *testing.T, e *engine) []string {
		owner := e.podman(t, "run", "--detach", "--uidmap", "0:1001:5000", "--gidmap", "0:2001:5000", image, "sleep", "1000")
		t.Cleanup(func() { e.podman(t, "rm", "--force", "--time", "0", owner) })
		return []string{"--userns=container:" + owner}
	}},
	{name: "in a pod", given: func(t *testing.T, e *engine) []string {
		return []string{"--pod", e.pod(t, "none")}
	}},
}

type end struct {
	name string
	end  func(t *testing.T, c *container)
	code string // the exit code, empty if it does not matter
}

// ends are the ends of a container's life, in the order in which one container goes through
// them. Each but the last can be followed by a new life. A container of the first kind goes
// through all of them, and one of another kind through the last three. In these three,
// poststop is run by different programs: by the clean-up that conmon starts, by podman
// restart, and by podman rm.
var ends = []end{
	{name: "exit 0", end: func(t *testing.T, c *container) { c.kill(t, unix.SIGUSR1) }, code: "0"},
	{name: "exit 3", end: func(t *testing.T, c *container) { c.kill(t, unix.SIGUSR2) }, code: "3"},
	{name: "podman stop", end: func(t *testing.T, c *container) { c.podman(t, "stop", c.id) }},
	{name: "podman kill", end: func(t *testing.T, c *container) { c.podman(t, "kill", c.id) }},
	{name: "a signal", end: func(t *testing.T, c *container) { c.kill(t, unix.SIGKILL) }, code: "137"},
	{name: "podman restart", end: func(t *testing.T, c *container) { c.podman(t, "restart", c.id) }},
	{name: "podman rm -f", end: func(t *testing.T, c *container) { c.podman(t, "rm", "--force", c.id) }},
}

func TestATokenLivesAsLongAsItsContainer(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, e *engine) {
		for i, kind := range kinds {
			ends := ends
			if i > 0 {
				ends = ends[len(ends)-3:]
			}
			if kind.only == "root" && e.rootless || kind.only == "rootless" && !e.rootless {
				continue
			}
			t.Run(kind.name, func(t *testing.T) {
				t.Parallel()
				args := append(annotations("demo", "a-task"), kind.args...)
				if kind.given != nil {
					args = append(args, kind.given(t, e)...)
				}
				liveThrough(t, e.create(t, args...), ends)
			})
		}
	})
}

func liveThrough(t *testing.T, c *container, ends []end) {
	if tokens := c.tokensOf(t, c.id); len(tokens) > 0 {
		t.Errorf("a container that has not started has %d tokens", len(tokens))
	}

	l := c.start(t)
	tokens := []string{l.token}
	c.holdsToken(t, l, "demo", "a-task")
	c.keepsTokenFromOthers(t, l)
	c.keepsTokensOutOfStorage(t, tokens...)

	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			e.end(t, c)
			if e.name == "podman restart" {
				l = c.nextLife(t)
			}
			c.revoked(t, tokens[len(tokens)-1])
			if e.name == "podman rm -f" {
				return
			}

			if e.name != "podman restart" {
				if e.code != "" && c.exitCode(t) != e.code {
					t.Error("the container ended in another way")
				}
				l = c.start(t)
			}

			c.holdsToken(t, l, "demo", "a-task")
			if slices.Contains(tokens, l.token) {
				t.Error("a token is used again")
			}
			tokens = append(tokens, l.token)
		})
	}

	c.keepsTokensOutOfStorage(t, tokens...)
}

// keepsTokenFromOthers checks that /run/terok is a read-only tmpfs of its own, and that in
// the container only root and the user of the container's process can read the token.
func (c *container) keepsTokenFromOthers(t *testing.T, l life) {
	t.Helper()
	if len(l.mount) != 1 {
		t.Fatalf("/run/terok is not a mount of its own: %q", l.mount)
	}
	if f := strings.Fields(l.mount[0]); f[2] != "tmpfs" {
		t.Errorf("/run/terok is a %s", f[2])
	} else {
		for _, want := range []string{"ro", "nosuid", "nodev", "noexec"} {
			if options := strings.Split(f[3], ","); !slices.Contains(options, want) {
				t.Errorf("/run/terok is mounted with %q, which lacks %s", options, want)
			}
		}
	}

	// podman exec reads gate.env as the user of the container's process, and not as another
	// user.
	if out := c.podman(t, "exec", c.id, "cat", "/run/terok/gate.env"); !strings.Contains(out, l.token) {
		t.Errorf("podman exec reads %q", out)
	}
	_, err := c.tryPodman("exec", "--user", "4321:4321", c.id, "cat", "/run/terok/gate.env")
	if err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("another user of the container reads gate.env: %v", err)
	}
	// Even root can only read.
	_, err = c.tryPodman("exec", "--user", "0", c.id, "sh", "-c", "echo TEROK_GATE_TOKEN=mine >/run/terok/gate.env")
	if err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("root in the container changes gate.env: %v", err)
	}
}

// keepsTokensOutOfStorage checks that podman has written the tokens nowhere.
func (c *container) keepsTokensOutOfStorage(t *testing.T, tokens ...string) {
	t.Helper()
	if files := c.filesWith(t, filepath.Join(c.dir, podmanDir), tokens...); len(files) > 0 {
		t.Errorf("the token is in %q", files)
	}
}

// pod makes a pod, whose infra container has no annotations. The cgroups of its containers
// are not below the pod's: on cgroup v2, without systemd, a container there cannot open
// /dev/null (podman 4.3.1, root).
func (e *engine) pod(t *testing.T, network string) string {
	t.Helper()
	id := e.podman(t, "pod", "create", "--share-parent=false", "--network", network, "--infra-image", image, "--infra-command", "sleep 1000")
	t.Cleanup(func() { e.podman(t, "pod", "rm", "--force", "--time", "0", id) })
	return id
}

func TestARestartPolicyGivesEachRetryANewToken(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, e *engine) {
		c := e.create(t, append(annotations("demo", "retry"), "--restart", "on-failure:2")...)
		l := c.start(t)

		for range 2 {
			c.holdsToken(t, l, "demo", "retry")
			c.kill(t, unix.SIGUSR2)
			next := c.nextLife(t)
			if next.token == l.token {
				t.Error("the retry has the token of the life before")
			}
			c.revoked(t, l.token)
			l = next
		}

		c.holdsToken(t, l, "demo", "retry")
		c.kill(t, unix.SIGUSR2)
		c.revoked(t, l.token)
		if code := c.exitCode(t); code != "3" {
			t.Errorf("the container ended with %s", code)
		}
	})
}

func TestAContainerThatRemovesItselfLosesItsToken(t *testing.T) {
	onEveryEngine(t, func(t *testing.T, e *engine) {
		args := append([]string{"run", "--rm"}, annotations("demo", "run-rm")...)
		out := e.podman(t, append(args, image, "sh", "-c", ". /run/terok/gate.env; echo $TEROK_GATE_TOKEN")...)
		if !tokenForm.MatchString(out) {
			t.Fatalf("the container had no token: %q", out)
		}
		e.revoked(t, out)
	})
}

// When a container ends, other containers' tokens for the same project and task stay.
func TestAContainersEndRevokesOnlyItsOwnToken(t *testing.T) {
	for _, row := range []struct {
		name  string
		given func(t *testing.T, e *engine) []string
	}{
		{name: "of two containers", given: func(*testing.T, *engine) []string { return nil }},
		{name: "of two containers of a pod", given: func(t *testing.T, e *engine) []string { return []string{"--pod", e.pod(t, "none")} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			onEveryEngine(t, func(t *testing.T, e *engine) {
				args := append(annotations("demo", "shared"), row.given(t, e)...)
				one, other := e.create(t, args...), e.create(t, args...)
				oneLife, otherLife := one.start(t), other.start(t)
				one.holdsToken(t, oneLife, "demo", "shared")
				other.holdsToken(t, otherLife, "demo", "shared")
				if oneLife.token == otherLife.token {
					t.Error("both have the same token")
				}

				one.podman(t, "stop", one.id)
				one.revoked(t, oneLife.token)
				other.holdsToken(t, otherLife, "demo", "shared")

				oneLife = one.start(t)
				other.podman(t, "rm", "--force", other.id)
				other.revoked(t, otherLife.token)
				one.holdsToken(t, oneLife, "demo", "shared")
			})
		})
	}
}

// A poststop hook outlives a killed podman, and may run when the container already lives
// again.
func TestALatePoststopSparesTheNextLife(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		// In place of our poststop hook, one that records what podman sends.
		recorded := filepath.Join(e.tempDir(t), "state.json")
		e = e.withOwnTokens(t).withHooks(t, hookFlags{}, func(dir string) error {
			return writeJSON(filepath.Join(dir, "99-terok-gate-poststop.json"), map[string]any{
				"version": "1.0.0",
				"hook":    map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", `/bin/cat >"$0"`, recorded}},
				"when":    map[string]any{"always": true},
				"stages":  []string{"poststop"},
			})
		})
		c := e.create(t, annotations("demo", "late")...)
		first := c.start(t)
		c.podman(t, "stop", c.id)
		var state []byte
		testenv.Eventually(t, "podman has sent a state to the poststop hook", func() bool {
			state, _ = os.ReadFile(recorded)
			return json.Valid(state)
		})

		second := c.start(t)
		if _, err := e.hook(t, string(state), "poststop"); err != nil {
			t.Fatal(err)
		}
		c.holdsToken(t, second, "demo", "late")
		if second.token == first.token {
			t.Error("both lives have the same token")
		}

		// When the second life is over, the very same call revokes its token.
		c.podman(t, "stop", c.id)
		if diff := cmp.Diff([]string{second.token}, c.tokensOf(t, c.id)); diff != "" {
			t.Errorf("tokens without a poststop hook (-want +got):\n%s", diff)
		}
		for range 2 { // a second call changes nothing
			if _, err := e.hook(t, string(state), "poststop"); err != nil {
				t.Fatal(err)
			}
			if tokens := c.tokensOf(t, c.id); len(tokens) > 0 {
				t.Error("the token is still there after poststop")
			}
		}
	})
}

func TestPodmanShowsNoToken(t *testing.T) {
	for _, row := range []struct {
		name string
		args []string
	}{
		{"by default", nil},
		{"with --uidmap", []string{"--uidmap", "0:1001:5000", "--gidmap", "0:2001:5000"}},
		{"with --tmpfs /run", []string{"--tmpfs", "/run"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			onRootAndRootless(t, func(t *testing.T, e *engine) {
				c := e.create(t, append(annotations("demo", "secret"), row.args...)...)
				l := c.start(t)
				c.holdsToken(t, l, "demo", "secret")
				for what, shown := range c.shown(t) {
					if strings.Contains(shown, l.token) {
						t.Errorf("podman %s shows the token", what)
					}
				}
				c.keepsTokensOutOfStorage(t, l.token)

				// The same search finds a token that the container itself keeps.
				c.podman(t, "exec", c.id, "sh", "-c", `. /run/terok/gate.env; cp /run/terok/gate.env "/$TEROK_GATE_TOKEN"`)
				for what, shown := range c.shown(t) {
					if what != "inspect" && !strings.Contains(shown, l.token) {
						t.Errorf("podman %s does not even show a token that the container copied", what)
					}
				}
				if files := c.filesWith(t, filepath.Join(c.dir, podmanDir), l.token); len(files) == 0 {
					t.Error("a search of podman's storage does not even find a token that the container copied")
				}
				c.podman(t, "rm", "--force", c.id)
			})
		})
	}
}

// shown returns what podman tells about the container and its files.
func (c *container) shown(t *testing.T) map[string]string {
	t.Helper()
	committed := fmt.Sprintf("%s-%.12s", image, c.id)
	c.podman(t, "commit", "--quiet", "--pause=false", c.id, committed) // there may be no cgroup to pause
	defer c.podman(t, "rmi", committed)
	dir := c.tempDir(t)
	saved, exported := filepath.Join(dir, "saved"), filepath.Join(dir, "exported")
	c.podman(t, "save", "--format", "docker-archive", "--output", saved, committed)
	c.podman(t, "export", "--output", exported, c.id)
	return map[string]string{
		"inspect":         c.podman(t, "inspect", c.id),
		"diff":            c.podman(t, "diff", c.id),
		"commit and save": readFile(t, saved),
		"export":          readFile(t, exported),
	}
}

func TestContainersWithoutAnnotationsStartAsWithoutHooks(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		for _, row := range []struct {
			name string
			args []string
		}{
			{"none", nil},
			{"others", []string{"--annotation", "org.example.project=demo"}},
			{"names that only begin or end alike", []string{"--annotation", "xterok.project=demo", "--annotation", "terok.sandbox.project=demo", "--annotation", "my.terok.task=1"}},
		} {
			t.Run(row.name, func(t *testing.T) {
				id, out, err := e.runAndRemove(t, append(slices.Clone(row.args), image, "sh", "-c", "ls -a /run; grep -c ' /run/terok ' /proc/self/mounts; exit 0")...)
				if err != nil {
					t.Fatal(err)
				}
				out = strings.TrimSpace(out)
				if want := ".\n..\n.containerenv\n0"; out != want {
					t.Errorf("the container sees %q, want %q", out, want)
				}
				if tokens := e.tokensOf(t, id); len(tokens) > 0 {
					t.Error("the container has a token")
				}
				if m := systemLog.Matching(with(id)); len(m) > 0 {
					t.Errorf("the system log mentions it: %q", m)
				}
			})
		}
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
