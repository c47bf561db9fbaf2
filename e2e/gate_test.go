package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// A container only sources gate.env, and then git works, with the container's own project
// and for as long as the container lives.

func TestGitWorksInAContainerForAsLongAsItLives(t *testing.T) {
	for _, row := range []struct {
		name    string
		on      func(*testing.T, func(*testing.T, *engine))
		args    []string
		authors string // of the container's commits
		config  map[string]string
	}{
		{
			name:    "without a configuration of its own",
			on:      onEveryEngine,
			args:    []string{"--env", "GIT_AUTHOR_NAME=a task", "--env", "GIT_COMMITTER_NAME=a task"},
			authors: "a task",
		},
		{
			name: "with a configuration in its environment",
			on:   onRootless,
			args: []string{
				"--env", "GIT_CONFIG_COUNT=2",
				"--env", "GIT_CONFIG_KEY_0=user.name", "--env", "GIT_CONFIG_VALUE_0=somebody else",
				"--env", "GIT_CONFIG_KEY_1=init.defaultBranch", "--env", "GIT_CONFIG_VALUE_1=trunk",
			},
			authors: "somebody else",
			config:  map[string]string{"user.name": "somebody else", "init.defaultBranch": "trunk"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.on(t, func(t *testing.T, e *engine) {
				testenv.Need(t, "git")

				g := newGate(t, e.tokenFile, "demo", "other")
				e = e.withHooks(t, hookFlags{prestart: []string{"--gate-url", g.URL}}, nil)

				kept := e.tempDir(t)
				args := append(annotations("demo", "with-git"), "--volume", kept+":/kept")
				args = append(args, withGit(t)...)

				c := e.create(t, append(args, row.args...)...)
				token := c.start(t).token
				if !slices.Equal(c.tokensOf(t, c.id), []string{token}) {
					t.Fatal("the container does not hold its token")
				}
				basic := base64.StdEncoding.EncodeToString([]byte(token + ":x"))

				inside := func(script string) (string, error) {
					return c.tryPodman("exec", c.id, "sh", "-ec", "set -a; . /run/terok/gate.env; "+script)
				}
				works := func(script string) string {
					t.Helper()
					out, err := inside(script)
					if err != nil {
						t.Fatal(err)
					}
					return strings.TrimSpace(out)
				}
				otherIsRefused := func() {
					t.Helper()
					seen := len(g.requests())
					if _, err := inside("git clone $TEROK_GATE_URL/other.git /tmp/other"); err == nil {
						t.Error("the container can clone another project's repository")
					}
					g.all(t, g.requests()[seen:], basic, http.StatusForbidden)
				}

				otherIsRefused()

				asked := len(g.requests())
				works("git clone --quiet $CODE_REPO /tmp/clone")
				if got := works("cat /tmp/clone/README"); got != "demo" {
					t.Errorf("the clone has a README with %q", got)
				}

				works(`cd /tmp/clone; echo work >file; git add file; git commit --quiet --message "some work"; git push --quiet`)
				g.all(t, g.requests()[asked:], basic, http.StatusOK)
				if got, want := g.git(t, "demo", "log", "-1", "--format=%an: %s"), row.authors+": some work"; got != want {
					t.Errorf("the last commit at the gate is %q, want %q", got, want)
				}

				otherIsRefused()
				for name, want := range row.config {
					if got := works("git config " + name); got != want {
						t.Errorf("the container's own setting of %s is now %q, want %q", name, got, want)
					}
				}

				// Git has not written the token down anywhere.
				remotes := works("cd /tmp/clone; git remote -v; cat .git/config")
				if !strings.Contains(remotes, g.URL+"/demo.git") || strings.Contains(remotes, "terok-g-") || strings.Contains(remotes, basic) {
					t.Errorf("git's remotes and configuration: %s", remotes)
				}
				if got := works(fmt.Sprintf("cd /tmp; grep -rlF -e %s -e %s . || true", token, basic)); got != "" {
					t.Errorf("the token is in %s", got)
				}

				// The same clone with the same credentials, in a container that has no
				// token itself.
				works("cp /run/terok/* /kept")
				again := append([]string{"run", "--rm", "--volume", kept + ":/run/terok:ro"}, withGit(t)...)
				again = append(again, row.args...)
				const clone = "git clone --quiet $CODE_REPO /tmp/clone; grep -qx work /tmp/clone/file"
				c.podman(t, append(slices.Clone(again), "--env-file", kept+"/gate.env", image, "sh", "-ec", clone)...)
				again = append(again, image, "sh", "-ec", "set -a; . /run/terok/gate.env; "+clone)
				c.podman(t, again...)

				c.podman(t, "stop", c.id)
				c.revoked(t, token)
				seen := len(g.requests())
				if _, err := c.tryPodman(again...); err == nil {
					t.Error("after the container has stopped, its credentials still clone")
				}
				g.all(t, g.requests()[seen:], basic, http.StatusForbidden)
			})
		})
	}
}

// withGit returns arguments that make the machine's git usable in a container of the image,
// and that put the container into the machine's network.
func withGit(t *testing.T) []string {
	t.Helper()
	return append([]string{"--network", "host"}, withGitAlone(t)...)
}

// withGitAlone returns arguments that make the machine's git usable in a container of the
// image.
func withGitAlone(t *testing.T) []string {
	t.Helper()
	path, err := exec.LookPath("git")
	if err != nil {
		testenv.Cannot(t, "git is not installed")
	}
	if !strings.HasPrefix(path, "/usr/") {
		testenv.Cannot(t, "git is not below /usr, which is what the containers get")
	}
	args := []string{"--env", "HOME=/tmp", "--env", "EMAIL=task@example.org", "--env", "GIT_TERMINAL_PROMPT=0"}
	for _, dir := range []string{"/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(dir); err == nil {
			args = append(args, "--volume", dir+":"+dir+":ro")
		}
	}
	return args
}

// testGate is a gate with repositories of its own, which records its requests.
type testGate struct {
	*httptest.Server
	repos string

	mu   sync.Mutex
	seen []request
}

// request is a request that the gate has answered.
type request struct {
	path          string
	authorization []string
	status        int
}

// newGate starts a gate that serves a repository for each project. Each repository has one commit.
func newGate(t *testing.T, tokenFile string, projects ...string) *testGate {
	t.Helper()
	g := &testGate{repos: t.TempDir()}
	for _, project := range projects {
		repo := filepath.Join(g.repos, project+".git")
		git(t, "init", "--quiet", "--bare", "--initial-branch=main", repo)
		work := t.TempDir()
		git(t, "clone", "--quiet", repo, work)
		if err := os.WriteFile(filepath.Join(work, "README"), []byte(project+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		git(t, "-C", work, "add", "README")
		git(t, "-C", work, "commit", "--quiet", "--message", "begin")
		git(t, "-C", work, "push", "--quiet", "origin", "HEAD:main")
	}

	tokens := store.File{Path: tokenFile}.Reader(func(err error) { t.Log(err) })
	server, err := gate.New(gate.Settings{Repos: g.repos, Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}

	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		server.ServeHTTP(status, r)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.seen = append(g.seen, request{r.URL.Path, r.Header.Values("Authorization"), status.status})
	}))
	t.Cleanup(g.Close)
	return g
}

// git runs git as the user who runs the tests, without that user's configuration.
func git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=gate", "GIT_COMMITTER_NAME=gate", "EMAIL=gate@example.org",
	}
	out, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// git runs git in the repository of a project.
func (g *testGate) git(t *testing.T, project string, args ...string) string {
	t.Helper()
	return git(t, append([]string{"--git-dir", filepath.Join(g.repos, project+".git")}, args...)...)
}

func (g *testGate) requests() []request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen)
}

// all checks that there were requests, that each carried these credentials and no others,
// and that each was answered with this status. It leaves out requests without credentials
// that the gate answered with 401: git before 2.46 makes them before it asks its helper.
func (g *testGate) all(t *testing.T, requests []request, basic string, status int) {
	t.Helper()
	requests = slices.DeleteFunc(slices.Clone(requests), func(r request) bool {
		return len(r.authorization) == 0 && r.status == http.StatusUnauthorized
	})
	if len(requests) == 0 {
		t.Error("the gate was not shown any credentials")
	}
	for _, r := range requests {
		if !slices.Equal(r.authorization, []string{"Basic " + basic}) {
			t.Errorf("%s came with %d authorization headers: %q", r.path, len(r.authorization), r.authorization)
		}
		if r.status != status {
			t.Errorf("%s was answered with %d, want %d", r.path, r.status, status)
		}
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

// Unwrap is for http.ResponseController, which the gate needs.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
