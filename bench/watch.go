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

// watched is what reap --watch takes of a processor's core and of memory.
type watched struct {
	Tokens int
	Core   float64 // percent
	MB     float64 // at its peak
}

func (w watched) String() string {
	return fmt.Sprintf("%d tokens: %.1f %% of a core, %.0f MB", w.Tokens, w.Core, w.MB)
}

// watch runs reap --watch for a while, beside two writers a second. The tokens are tied to one living process: each has
// a pidfd of its own all the same.
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
	cmd := exec.Command(w.programs["hook"], "--token-file", w.tokens(), "reap", "--watch")
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
		// Every time one goes and one comes.
		_, err = file.Issue(store.Entry{Token: token, Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c0ffee", Process: process})
		if err != nil {
			return r, err
		}
		if i == 4 { // it has found its feet
			begun, before = time.Now(), processorSeconds(cmd.Process.Pid)
		}
	}
	used := processorSeconds(cmd.Process.Pid) - before
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(status)) {
		if peak, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kB float64
			fmt.Sscan(peak, &kB)
			r.MB = kB * 1024 / 1e6
		}
	}
	r.Core = 100 * used / time.Since(begun).Seconds()
	return r, nil
}

// processorSeconds is what a process has used so far, in its clock ticks of 10 ms.
func processorSeconds(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var user, system int
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return float64(user+system) / 100
}
