package gate_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

func TestAStoppingGateFinishesRequestsUnderWay(t *testing.T) {
	h := open(t, gate.Settings{})
	demo := h.demo(t, "demo", 1)
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), "work")
	work := filepath.Join(h.dir, "work")
	goOn := filepath.Join(h.dir, "go-on")

	hook := filepath.Join(h.repos, ".hooks", "pre-receive")
	real, err := os.Readlink(hook)
	must(t, err)
	must(t, os.Remove(hook))
	must(t, os.WriteFile(hook, fmt.Appendf(nil, "#!/bin/bash\nuntil [ -e %s ]; do sleep 0.01; done\nexec -a pre-receive %s\n", goOn, real), 0o755))

	push := command(work, "push", "origin", "main:side")
	must(t, push.Start())
	testenv.Eventually(t, "the push waits", func() bool {
		return strings.Contains(strings.Join(processesIn(h.repos), "\n"), "pre-receive")
	})

	stopped := make(chan struct{})
	go func() {
		h.Stop(context.Background())
		close(stopped)
	}()
	testenv.Eventually(t, "it takes no new connections", func() bool {
		conn, err := net.Dial("tcp", h.address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})

	must(t, os.WriteFile(goOn, nil, 0o644))
	if err := push.Wait(); err != nil {
		t.Errorf("the push: %v", err)
	}
	<-stopped
	if git(t, demo, "for-each-ref", "refs/heads/side") == "" {
		t.Error("nothing has moved")
	}
}
