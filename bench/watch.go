// Measures the cost of reap --watch while little happens.

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"terok-gate-hook/store"
)

// watched is how much of a processor's core, and how much memory, reap --watch takes.
type watched struct {
	Tokens int
	Core   float64 // percent
	MB     float64 // at its peak
}

func (w watched) String() string {
	return fmt.Sprintf("%d tokens: %.1f %% of a core, %.0f MB", w.Tokens, w.Core, w.MB)
}

// watch runs reap --watch for a while, beside two writes a second. All tokens are tied to the same
// living process, but reap --watch opens a pidfd for each of them.
func (w *world) watch(tokens int, length time.Duration) (r watched, err error) {
	r.Tokens = tokens
	if err := w.furnish(tokens, 0); err != nil {
		return r, err
	}

	process, err := store.ProcessOf(os.Getpid())
	if err != nil {
		return r, err
	}
	w.process = func(int) store.Process { return *process }
	if err := w.write(tokens); err != nil {
		return r, err
	}

	cmd := exec.Command(w.programs["gate"], "--token-file", w.tokens(), "--log-file", w.log(), "reap", "--watch")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return r, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()

	file := store.File{Path: w.tokens()}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var begun time.Time
	var before float64
	for i := 0; begun.IsZero() || time.Since(begun) < length; i++ {
		<-tick.C
		token, err := store.NewToken()
		if err != nil {
			return r, err
		}

		// Each write replaces the token of the container c0ffee.
		_, err = file.Issue(store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c0ffee", Process: process})
		if err != nil {
			return r, err
		}

		if i == 4 { // by now, reap --watch has read the file and watches all processes
			begun = time.Now()
			before, _ = processorTime(cmd.Process.Pid)
		}
	}

	used, _ := processorTime(cmd.Process.Pid)
	r.Core = 100 * (used - before) / time.Since(begun).Seconds()
	r.MB, err = peakMB(cmd.Process.Pid)
	return r, err
}

// processorTime returns the processor time of a process so far, and that of its children that have
// ended, in seconds.
func processorTime(pid int) (own, children float64) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	var ticks [4]float64 // of 10 ms each: user and system time, then the children's
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for i := range ticks {
		fmt.Sscan(fields[11+i], &ticks[i])
	}
	return (ticks[0] + ticks[1]) / 100, (ticks[2] + ticks[3]) / 100
}

// peakMB returns the most memory that a process has had so far.
func peakMB(pid int) (mb float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if peak, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kB float64
			fmt.Sscan(peak, &kB)
			mb = kB * 1024 / 1e6
		}
	}
	return mb, err
}
