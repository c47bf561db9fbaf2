package hook

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// someBasic is the value of the header Authorization with which git sends someToken.
var someBasic = "Basic " + base64.StdEncoding.EncodeToString([]byte(string(someToken)+":x"))

// requests are the requests that a server gets, each with its header Authorization.
type requests struct {
	mu   sync.Mutex
	seen []string
}

func (r *requests) of(serve http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, fmt.Sprintf("%s %s %s", req.Method, req.URL.Path, req.Header.Get("Authorization")))
		r.mu.Unlock()
		serve.ServeHTTP(w, req)
	})
}

func (r *requests) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// workplace is what a container has: a gate, and git set up as gate.env does it.
type workplace struct {
	gate *httptest.Server
	seen requests // by the gate
	env  []string
}

// newWorkplace starts a gate with a repository. If answer returns true, it has answered the request
// in the gate's place. The parameter more is the container's own environment.
func newWorkplace(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) bool, more ...string) *workplace {
	t.Helper()
	testenv.Need(t, "git")
	root := t.TempDir()
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=main", root + "/demo.git"},
		{"--git-dir", root + "/demo.git", "config", "http.receivepack", "true"},
	} {
		if out, err := git(t, args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
	}

	programs, err := git(t, "--exec-path").Output()
	must(t, err)
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(programs)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}

	w := &workplace{}
	w.gate = httptest.NewServer(w.seen.of(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case answer(rw, r):
		case r.Header.Get("Authorization") == "":
			rw.Header().Set("WWW-Authenticate", `Basic realm="gate"`)
			rw.WriteHeader(http.StatusUnauthorized)
		default:
			backend.ServeHTTP(rw, r)
		}
	})))
	t.Cleanup(w.gate.Close)

	directory := t.TempDir()
	s := Settings{GateURL: w.gate.URL}
	writeFiles(t, directory, theFiles(t, s, someToken, more...))
	pointers, err := s.gitPointers(more)
	must(t, err)

	w.env = append(w.env, more...)
	for _, v := range pointers.variables() {
		w.env = append(w.env, v.name+"="+strings.ReplaceAll(v.value, MountPath, directory))
	}
	return w
}

func (w *workplace) git(t *testing.T, args ...string) *exec.Cmd {
	cmd := git(t, args...)
	cmd.Env = append(append(cmd.Env, "GIT_AUTHOR_NAME=a", "GIT_COMMITTER_NAME=a", "EMAIL=a@example.org"), w.env...)
	return cmd
}

// clone and push return an error with git's output if git fails.
func (w *workplace) clone(t *testing.T) error {
	return w.try(t, "clone", "--quiet", w.gate.URL+"/demo.git", filepath.Join(t.TempDir(), "clone"))
}

func (w *workplace) push(t *testing.T, config ...string) error {
	work := t.TempDir()
	must(t, w.try(t, "init", "--quiet", "--initial-branch=main", work))
	for i := 0; i < len(config); i += 2 {
		must(t, w.try(t, "-C", work, "config", config[i], config[i+1]))
	}
	must(t, w.try(t, "-C", work, "commit", "--quiet", "--allow-empty", "--message", "work"))
	return w.try(t, "-C", work, "push", "--quiet", w.gate.URL+"/demo.git", "HEAD:refs/heads/work")
}

func (w *workplace) try(t *testing.T, args ...string) error {
	out, err := w.git(t, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("git %q: %w: %s", args, err, out)
	}
	return nil
}

// otherSettings are ways to give git another setting: by variables of the
// container's environment and by configuration of the repository. GATE stands for the
// gate's URL, see forGate.
func otherSettings(key, value string) map[string]struct{ env, config []string } {
	return map[string]struct{ env, config []string }{
		"no other setting":                        {},
		"the environment's configuration":         {env: []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http." + key, "GIT_CONFIG_VALUE_0=" + value}},
		"the repository":                          {config: []string{"http." + key, value}},
		"the repository, for the gate's own URL":  {config: []string{"http.GATE." + key, value}},
		"what git -c has set":                     {env: []string{"GIT_CONFIG_PARAMETERS='http.GATE." + key + "'='" + value + "'"}},
		"the environment, for the gate's own URL": {env: []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.GATE." + key, "GIT_CONFIG_VALUE_0=" + value}},
	}
}

func TestARedirectDoesNotGetTheToken(t *testing.T) {
	for _, row := range []struct {
		name string
		is   func(r *http.Request) bool
	}{
		{"of info/refs", func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/info/refs") }},
		{"of info/refs, with the token", func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, "/info/refs") && r.Header.Get("Authorization") != ""
		}},
		{"of the request after it", func(r *http.Request) bool { return r.Method == http.MethodPost }},
	} {
		for who, says := range otherSettings("followRedirects", "true") {
			t.Run(row.name+", with "+who, func(t *testing.T) {
				var elsewhere requests
				other := httptest.NewServer(elsewhere.of(http.NotFoundHandler()))
				defer other.Close()

				redirect := func(w http.ResponseWriter, r *http.Request) bool {
					if row.is(r) {
						http.Redirect(w, r, other.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
					}
					return row.is(r)
				}

				w := newWorkplace(t, redirect, says.env...)
				w.forGate(says.env, says.config)

				if err := w.push(t, says.config...); err == nil {
					t.Error("git pushes to another server")
				}
				if row.name != "of the request after it" { // git clones an empty repository without that request
					if err := w.clone(t); err == nil {
						t.Error("git clones from another server")
					}
				}

				if len(w.seen.all()) == 0 {
					t.Error("the gate was not asked")
				}
				if seen := elsewhere.all(); len(seen) > 0 {
					t.Errorf("another server was asked: %q", seen)
				}
			})
		}
	}
}

func TestAProxyDoesNotGetTheToken(t *testing.T) {
	var elsewhere requests
	proxy := httptest.NewServer(elsewhere.of(http.NotFoundHandler()))
	defer proxy.Close()

	rows := otherSettings("proxy", proxy.URL)
	for _, name := range []string{"http_proxy", "ALL_PROXY", "all_proxy"} {
		rows[name] = struct{ env, config []string }{env: []string{name + "=" + proxy.URL}}
	}
	for who, says := range rows {
		t.Run("of "+who, func(t *testing.T) {
			w := newWorkplace(t, func(http.ResponseWriter, *http.Request) bool { return false }, says.env...)
			w.forGate(says.env, says.config)
			must(t, w.push(t, says.config...))
			must(t, w.clone(t))

			if !slices.ContainsFunc(w.seen.all(), func(request string) bool { return strings.HasSuffix(request, someBasic) }) {
				t.Errorf("the gate was not shown the token: %q", w.seen.all())
			}
			if seen := elsewhere.all(); len(seen) > 0 {
				t.Errorf("the proxy was asked: %q", seen)
			}
		})
	}
}

// forGate puts the gate's URL, which is not known before, where GATE stands.
func (w *workplace) forGate(env, config []string) {
	for _, list := range [][]string{w.env, env, config} {
		for i := range list {
			list[i] = strings.Replace(list[i], "GATE", w.gate.URL, 1)
		}
	}
}
