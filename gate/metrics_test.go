package gate_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/trail"
)

// metrics returns the gate's metrics in the format that Prometheus reads.
func (h *harness) metrics() string {
	scrape := httptest.NewRecorder()
	h.Metrics().ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	return scrape.Body.String()
}

func TestMetricsCountWhatHappened(t *testing.T) {
	f := openFleet(t, gate.Settings{}, gate.Settings{})
	h := f.repos
	h.demo(t, "demo", 1)
	token := h.issue(t, "demo")
	git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
	git(t, filepath.Join(h.dir, "work"), "push", "--quiet", "origin", "main:side")
	h.request(t, "GET", "/demo.git/info/refs?service=git-upload-pack", "wrong", "")
	h.trailed(t, trail.Refused, 1)
	git(t, f.host.dir, "ls-remote", f.host.url(f.host.issue(t, "demo"), "demo"))

	metrics := h.metrics()
	for _, line := range []string{
		`terok_gate_requests_total{code="403"} 1`,
		`terok_gate_requests_total{code="200"} `,
		`terok_gate_requests_under_way 0`,
		`terok_gate_bytes_total{service="git-upload-pack"} `,
		`terok_gate_bytes_total{service="git-receive-pack"} `,
		`terok_gate_cuts_total 0`,
		`terok_gate_refusals_total 1`,
		`terok_gate_handshake_failures_total 0`,
		`terok_gate_tokens 1`,
		`terok_gate_listeners 2`, // for clients, and for gates of hosts
		`terok_gate_vouched_requests_total{code="200",host="host-a"} 2`,
		`terok_gate_token_file_age_seconds `,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s in\n%s", line, metrics)
		}
	}

	page, err := os.ReadFile("../docs/terok-gate.8.md")
	must(t, err)
	served := regexp.MustCompile(`(?m)^# TYPE (terok_gate_\w+)`).FindAllStringSubmatch(metrics, -1)
	described := regexp.MustCompile(`\*\*(terok_gate_\w+)\*\*`).FindAllStringSubmatch(string(page), -1)

	var names [2][]string
	for i, found := range [][][]string{served, described} {
		for _, match := range found {
			names[i] = append(names[i], match[1])
		}
		slices.Sort(names[i])
	}
	if !slices.Equal(names[0], names[1]) {
		t.Errorf("the gate has the metrics %q, and its manual page %q", names[0], names[1])
	}
}
