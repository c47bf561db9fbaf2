package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
)

// node is a node as Kubernetes' API keeps it; e2e/kubernetes has the real one.
type node struct {
	sync.Mutex
	version int
	taints  []string // keys
	change  bool     // by another, between reading and writing
}

func (n *node) has(taint string) bool {
	n.Lock()
	defer n.Unlock()
	return slices.Contains(n.taints, taint)
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.Lock()
	defer n.Unlock()
	type object = map[string]any
	switch {
	case r.Header.Get("Authorization") != "Bearer secret":
		http.Error(w, "who is it?", http.StatusUnauthorized)
	case r.URL.Path != "/api/v1/nodes/one":
		http.Error(w, "no such node", http.StatusNotFound)
	case r.Method == http.MethodGet:
		var taints []object
		for _, key := range n.taints {
			taints = append(taints, object{"key": key, "effect": "NoSchedule"})
		}
		_ = json.NewEncoder(w).Encode(object{"metadata": object{"resourceVersion": strconv.Itoa(n.version)}, "spec": object{"taints": taints}})
		if n.change {
			n.version++
		}
	default:
		var patch struct {
			Metadata struct{ ResourceVersion string }
			Spec     struct {
				Taints []struct{ Key, Effect string }
			}
		}
		content, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(content, &patch); err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
			http.Error(w, string(content), http.StatusBadRequest)
			return
		}
		if patch.Metadata.ResourceVersion != strconv.Itoa(n.version) {
			http.Error(w, "the node has been modified", http.StatusConflict)
			return
		}
		n.version++
		n.taints = nil
		for _, t := range patch.Spec.Taints {
			n.taints = append(n.taints, t.Key)
		}
		_, _ = io.WriteString(w, "{}")
	}
}

// serve serves the node, and returns the API as the plugin reaches it.
func serve(t *testing.T, n *node) *cluster {
	t.Helper()
	server := httptest.NewTLSServer(n)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, content := range map[string]string{"ca.crt": string(ca), "token": "secret\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := newCluster(server.URL, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSettingTheTaintLeavesOtherTaintsAlone(t *testing.T) {
	n := &node{taints: []string{"a", taint, "b"}}
	api := serve(t, n)
	for _, row := range []struct {
		want   bool
		taints string
	}{{false, "a b"}, {false, "a b"}, {true, "a b " + taint}, {true, "a b " + taint}} {
		if err := api.setTaint(context.Background(), "one", row.want); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(n.taints, " "); got != row.taints {
			t.Errorf("taints %s instead of %s", got, row.taints)
		}
	}
	if n.version != 2 {
		t.Errorf("%d changes instead of 2", n.version)
	}

	n.change = true
	if err := api.setTaint(context.Background(), "one", false); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("what another has changed is overwritten: %v", err)
	}
	if err := api.setTaint(context.Background(), "two", false); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("another node: %v", err)
	}
}

func TestANodeHasTheTaintUnlessItIsReady(t *testing.T) {
	n := &node{taints: []string{"a"}}
	api := serve(t, n)
	p := onNode(t, hook.Settings{}, "team=demo")
	w := &watch{plugin: p, setTaint: func(ctx context.Context, on bool) error { return api.setTaint(ctx, "one", on) }}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.run(ctx) }()

	testenv.Eventually(t, "a node without an engine has the taint", func() bool { return n.has(taint) })
	p.connected.Store(true)
	testenv.Eventually(t, "the taint is off", func() bool { return !n.has(taint) })
	testenv.Must(t, os.Rename(p.place.Devices, p.place.Devices+"-away"))
	testenv.Eventually(t, "the taint is back", func() bool { return n.has(taint) })
	testenv.Must(t, os.Rename(p.place.Devices+"-away", p.place.Devices))
	testenv.Eventually(t, "the taint is off again", func() bool { return !n.has(taint) })
	stop()
	<-ended
	if !n.has(taint) || !n.has("a") {
		t.Errorf("when the plugin has ended, the taints are %q", n.taints)
	}
}
