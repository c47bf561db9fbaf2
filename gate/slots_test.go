package gate_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

// hold begins requests that never come further, and begins each anew when it is cut or
// refused, until the test ends.
func (h *harness) hold(t *testing.T, project string, tokens, requestsOfEach int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })

	for task := range tokens {
		token, err := h.tokens.CreateToken(project, fmt.Sprintf("holds-%d", task))
		must(t, err)
		push := head("POST /"+project+".git/git-receive-pack", string(token), receiveRequest, "Content-Length: 1000") + "00"
		for range requestsOfEach {
			all.Go(func() {
				for ctx.Err() == nil {
					conn, err := net.Dial("tcp", h.address)
					if err != nil {
						return // the gate has ended
					}

					stop := context.AfterFunc(ctx, func() { conn.Close() })
					_, _ = io.WriteString(conn, push)
					_, _ = io.Copy(io.Discard, conn)
					stop()
					conn.Close()
				}
			})
		}
	}
}

func (h *harness) underWay(t *testing.T, requests int) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%d requests are under way", requests), func() bool {
		return strings.Contains(h.metrics(), fmt.Sprintf("terok_gate_requests_under_way %d\n", requests))
	})
}

func TestNoProjectLocksOutAnother(t *testing.T) {
	for name, hostile := range map[string][]string{
		"one project":                 {"hostile-1"},
		"three projects between them": {"hostile-1", "hostile-2", "hostile-3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, gate.Settings{Patience: 5 * time.Second})
			for _, project := range hostile {
				h.demo(t, project, 1)
				h.hold(t, project, 8, 8)
			}
			h.underWay(t, 64*len(hostile))
			h.demo(t, "demo", 1)
			url := h.url(h.issue(t, "demo"), "demo")
			for n := range 3 {
				git(t, h.dir, "clone", "--quiet", url, fmt.Sprint("work-", n))
			}
		})
	}
}

func TestTheSlowestRequestOfAProjectOverItsShareIsCut(t *testing.T) {
	h := open(t, gate.Settings{Together: 6, PerToken: 6, MaxPush: 1 << 40})
	for _, project := range []string{"demo", "small", "other"} {
		h.demo(t, project, 1)
	}

	// steady pushes a ref that it may not push. The gate reads a refused push to its end, too.
	steady, err := store.NewToken()
	must(t, err)
	_, err = h.tokens.Issue(store.Entry{
		Token: steady, Grant: store.Grant{Project: "demo", Task: "steady"}, Limits: store.Limits{Push: [][]string{{"refs/heads/x"}}},
	})
	must(t, err)

	command := fmt.Sprintf("%040d %040d refs/heads/y\x00report-status", 0, 1)
	conn := h.dial(t, head("POST /demo.git/git-receive-pack", string(steady), receiveRequest, fmt.Sprint("Content-Length: ", 1<<40))+pkt(command)+"0000")
	sending := make(chan error, 1)
	go func() {
		some := make([]byte, 1<<10)
		for {
			if _, err := conn.Write(some); err != nil {
				sending <- err
				return
			}
		}
	}()

	h.underWay(t, 1)
	h.hold(t, "small", 1, 1)
	h.underWay(t, 2)
	h.hold(t, "demo", 1, 5)
	h.underWay(t, 7)

	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "other"), "other"), "work")
	select {
	case err := <-sending:
		t.Errorf("the push that goes on sending is cut: %v", err)
	default:
	}

	cut := 0
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, event := range h.events {
		if event.Event != trail.Cut {
			continue
		}
		if cut++; event.Project != "demo" || event.Task == "steady" || event.Error != "cut to free its slot for another project" {
			t.Errorf("the trail has %+v", event)
		}
	}
	if cut == 0 {
		t.Error("nothing was cut")
	}
}
