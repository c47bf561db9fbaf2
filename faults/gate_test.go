package faults

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// theGate serves the containers of all worlds, and authorizes none of their requests, since
// it reads another token file.
var theGate = sync.OnceValues(func() (*gate.Gate, error) {
	// Otherwise only the first hook would make the directory of records, and so make other system
	// calls than the next hooks.
	for _, dir := range []string{filepath.Dir(gateSocket()), filepath.Dir(gateSocket()) + "-hook"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	g, err := gate.New(gate.Settings{
		Repos:  filepath.Dir(gateSocket()),
		Tokens: store.File{Path: filepath.Join(testenv.Dir, "gate", "tokens.json")}.Reader(func(error) {}),
	})
	if err != nil {
		return nil, err
	}
	l, err := testenv.ListenForHooks(gateSocket())
	if err == nil {
		go g.ServeControl(l)
	}
	return g, err
})

func gateSocket() string { return filepath.Join(testenv.Dir, "gate", "control") }

// noListenerIsLeft waits until the gate has no listener in any container's network.
func noListenerIsLeft(t *testing.T) {
	t.Helper()
	g, err := theGate()
	must(t, err)
	testenv.Eventually(t, "no listener is left in a container's network", func() bool {
		answer := httptest.NewRecorder()
		g.Metrics().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Contains(answer.Body.String(), "\nterok_gate_listeners 0\n")
	})
}
