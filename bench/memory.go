// Measures the memory of commands that read a large token file.

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
)

// memory is the most memory that a command took, in MB and as a multiple of the token file's size.
type memory struct {
	Command string
	MB      float64
	OfFile  float64
}

func (m memory) String() string {
	return fmt.Sprintf("%s %.0f MB, %.2f times the file", m.Command, m.MB, m.OfFile)
}

func (w *world) memory(tokens int) (all []memory, err error) {
	if err := w.furnish(tokens, 0); err != nil {
		return nil, err
	}
	file, err := os.Stat(w.tokens())
	if err != nil {
		return nil, err
	}

	// A child shares the bench's memory until it executes its program, so the bench's peak counts as
	// the child's. That peak is reset first.
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return nil, err
	}

	for _, command := range []string{"list", "list --json", "verify"} {
		cmd := exec.Command(w.programs["gate"], append([]string{"--token-file", w.tokens(), "--log-file", w.log()}, strings.Fields(command)...)...)
		cmd.Stdin = strings.NewReader("terok-g-" + strings.Repeat("0", 32)) // valid nowhere
		cmd.Env = []string{}                                                // no podman: list would ask it for names
		if err := cmd.Run(); err != nil && command != "verify" {
			return nil, fmt.Errorf("%v: %w", cmd.Args, err)
		}

		bytes := float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024
		all = append(all, memory{command, bytes / 1e6, bytes / float64(file.Size())})
	}
	return all, nil
}
