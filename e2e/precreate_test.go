package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// With precreate registered, git works in an image that only has git: in the container's
// own process, with nothing sourced.

// work is what the process does: what people use git for, and then a search for the token
// in places that it might have got to.
const work = `
git clone --quiet http://$GATE/demo.git /dev/shm/clone
cd /dev/shm/clone
test "$(git remote get-url origin)" = "$CODE_REPO"
echo work >of-$(id -u); git add .; git commit --quiet --message "some work"
git push --quiet
git clone --quiet http://$GATE/other.git /dev/shm/other 2>/dev/null && exit 9
echo "env $TEROK_GATE_ENV"
{ sed -n 's/^TEROK_GATE_TOKEN=//p' /run/terok/gate.env; printf '%s:x' "$(sed -n 's/^username=//p' /run/terok/credential)" | base64 -w 0; echo; } >/dev/shm/secrets
test "$(wc -l </dev/shm/secrets)" = 2
set -- $(grep -lF -f /dev/shm/secrets /proc/[0-9]*/environ /proc/[0-9]*/cmdline; grep -rlF -f /dev/shm/secrets /dev/shm | grep -v /secrets) || true
echo "leaks $*"
`

func TestGitNeedsNothingSourcedWithPrecreate(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		testenv.Need(t, "git")
		g := newGate(t, e.tokenFile, "demo", "other")
		e = e.withHooks(t, hookFlags{prestart: []string{"--gate-url", g.URL}}, func(dir string) error {
			return e.addPrecreate(dir, "--gate-url", g.URL)
		})

		for _, row := range []struct {
			name string
			args []string
		}{
			{"as the container's root", nil},
			{"as another user", []string{"--user", "1234:55"}},
		} {
			t.Run(row.name, func(t *testing.T) {
				args := append(annotations("demo", "precreate"), withGit(t)...)
				args = append(args, "--env", "GATE="+strings.TrimPrefix(g.URL, "http://"), "--env", "GIT_AUTHOR_NAME=task", "--env", "GIT_COMMITTER_NAME=task")
				args = append(args, row.args...)

				about := e.tempDir(t)
				id := e.podman(t, append(append([]string{"create", "--log-opt", "path=" + filepath.Join(about, "log")}, args...), image, "sh", "-ec", work)...)
				c := &container{engine: e, id: id, about: about}
				t.Cleanup(func() { e.podman(t, "rm", "--force", "--time", "0", id) })

				seen := len(g.requests())
				e.podman(t, "start", id)
				inspected := e.podman(t, "inspect", id)
				if code := c.exitCode(t); code != "0" {
					t.Fatalf("its process ends with %s: %q", code, c.output(t))
				}

				out := strings.Join(c.output(t), "\n")
				if !strings.Contains(out, "env /run/terok/gate.env") || !strings.HasSuffix(out, "leaks ") {
					t.Errorf("its process says %q", out)
				}
				if looksLikeToken.MatchString(inspected) {
					t.Errorf("podman inspect shows a token: %s", inspected)
				}

				g.asks(t, g.requests()[seen:], 3) // clone, push, and the clone of another project
			})
		}
	})
}

func TestAContainerDoesNotStartIfPrecreateRefusesItsConfiguration(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		e = e.withHooks(t, hookFlags{}, func(dir string) error { return e.addPrecreate(dir, "--gate-url", "http://gate:1") })
		c := e.create(t, append(annotations("demo", "broken"), "--env", "GIT_CONFIG_PARAMETERS=x-"+filepath.Base(e.conf))...)
		if out, err := e.tryPodman("start", c.id); err == nil {
			t.Errorf("the container starts: %s", out)
		}
		if out := c.output(t); len(out) > 0 {
			t.Errorf("its process runs: %q", out)
		}
		if tokens := e.tokensOf(t, c.id); len(tokens) > 0 {
			t.Error("the container has a token")
		}
		if systemLog.Listening() && len(systemLog.SoFar(t, with("terok-gate-hook", c.id, "precreate: ", "GIT_CONFIG_PARAMETERS"))) == 0 {
			t.Error("the system log does not say why")
		}
	})
}
