// Package gate is a small gate server, for the tests and for trying the hook: git
// http-backend behind a check of the token, as terok's own does it. It is not made
// for the network: no TLS, no limits.
package gate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Gate serves the bare repositories <project>.git of a folder to whoever shows a
// token of that project.
type Gate struct {
	tokenFile string
	repos     string
	backend   http.Handler

	mu    sync.Mutex
	mtime time.Time
	known map[string]entry
}

type entry struct {
	Project string `json:"project"`
}

// New returns a gate. It fails without git.
func New(tokenFile, repos string) (*Gate, error) {
	programs, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("ask git for its programs: %w", err)
	}
	return &Gate{
		tokenFile: tokenFile,
		repos:     repos,
		backend: &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(programs)), "git-http-backend"),
			Env: []string{
				"GIT_PROJECT_ROOT=" + repos,
				"GIT_HTTP_EXPORT_ALL=1",
				"REMOTE_USER=gate", // who has none may not push
			},
			InheritEnv: []string{"PATH"},
		},
	}, nil
}

func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch code := g.check(r); code {
	case http.StatusOK:
		g.backend.ServeHTTP(w, r)
	default:
		if code == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="gate"`)
		}
		http.Error(w, http.StatusText(code), code)
	}
}

// check says what the request is worth: the token is the user name, the password
// counts for nothing.
func (g *Gate) check(r *http.Request) int {
	user, _, ok := r.BasicAuth()
	if !ok {
		return http.StatusUnauthorized
	}
	grant, ok := g.tokens()[user]
	if !ok {
		return http.StatusUnauthorized
	}
	repository := grant.Project + ".git"
	if !strings.HasPrefix(r.URL.Path, "/"+repository+"/") {
		return http.StatusForbidden
	}
	if _, err := os.Stat(filepath.Join(g.repos, repository)); err != nil {
		return http.StatusNotFound // the backend complains of it on standard error
	}
	return http.StatusOK
}

// tokens are those of the token file when its modification time last differed from
// the one before.
func (g *Gate) tokens() map[string]entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	info, err := os.Stat(g.tokenFile)
	if err != nil {
		return nil
	}
	if !info.ModTime().Equal(g.mtime) {
		text, err := os.ReadFile(g.tokenFile)
		if err != nil {
			return nil
		}
		g.mtime, g.known = info.ModTime(), nil
		if json.Unmarshal(text, &g.known) != nil {
			return nil
		}
	}
	return g.known
}
