package control

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// An attacker who controls the gate can send any answer.
func TestOnlyAWellFormedAcceptanceCounts(t *testing.T) {
	for _, row := range []struct {
		answer string
		yes    bool
	}{
		{`{"version": 1}`, true},
		{`{"version": 1, "later": [1]}`, true},
		{`{"version": 1, "refused": "taken"}`, false},
		{`{"version": 1, "refused": "of another kind"}`, false},
		{`{"version": 2}`, false},
		{`{}`, false},
		{`null`, false},
		{`[]`, false},
		{`yes`, false},
		{``, false},
		{strings.Repeat(`{"a":`, 800), false},
		{`{"version": 1, "detail": "` + strings.Repeat("a", MessageLimit) + `"}`, false},
	} {
		path := filepath.Join(t.TempDir(), "control")
		l, err := testenv.ListenForHooks(path)
		if err != nil {
			t.Fatal(err)
		}

		go func() {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, MessageLimit))
			_, _, _ = conn.WriteMsgUnix([]byte(row.answer), unix.UnixRights(0), nil) // and a descriptor
		}()

		err = Hand(path, time.Now().Add(10*time.Second), 0, Request{})
		l.Close()
		if row.yes != (err == nil) {
			t.Errorf("%.60s: the error is %v", row.answer, err)
		}
		if refusal := Refusal(""); err != nil && !errors.As(err, &refusal) && !errors.Is(err, ErrNoGate) {
			t.Errorf("%.60s: the error is neither a Refusal nor ErrNoGate: %v", row.answer, err)
		}
	}
}
