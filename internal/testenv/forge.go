// Serves a forge by https.

package testenv

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"testing"
)

// ForgeName is the host name in the certificate of an HTTPSForge, which is also valid for
// 127.0.0.1.
const ForgeName = "example.com"

// HTTPSForge serves the bare repositories in a directory by https.
type HTTPSForge struct {
	Directory string
	Listener  net.Listener // nil for one on the loopback
	Around    []string     // a command line to which git's is appended; nil for git's alone

	// Admit reports whether the forge is to answer a request. If not, Admit has answered the
	// request itself. A nil Admit admits all requests.
	Admit func(http.ResponseWriter, *http.Request) bool
}

// Start serves the repositories until the test is over. It returns the URL of its listener, and
// the self-signed certificate that a client has to trust.
func (f HTTPSForge) Start(t testing.TB) (address string, certificate []byte) {
	t.Helper()
	git := append(append([]string{}, f.Around...), Tool(t, "git"), "http-backend")
	program, err := exec.LookPath(git[0])
	Must(t, err)
	backend := &cgi.Handler{
		Path: program, Args: git[1:], Dir: "/",
		Env: []string{
			"GIT_PROJECT_ROOT=" + f.Directory, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=me",
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
		InheritEnv: []string{"PATH"},
	}

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if f.Admit == nil || f.Admit(out, r) {
			backend.ServeHTTP(out, r)
		}
	}))
	if f.Listener != nil {
		server.Listener.Close()
		server.Listener = f.Listener
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
