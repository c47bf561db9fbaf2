// Package testenv holds what the tests of several packages share: waiting, skipping,
// namespaces to run in, processes in networks of their own, a readable system log, and the
// programs under test. The assertions are in the tests.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"
)

// Dir is the directory of a run that Main started. Every user can enter it, and it is
// removed when the run is over.
var Dir = os.Getenv(dirVar)

// Build builds the program of this import path as it is released, into Dir, and returns the
// binary's path. A user without a home directory cannot build programs, and sets
// TEROK_TEST_PROGRAMS to a directory that has them.
func Build(program string) (string, error) {
	// Both programs go to one directory: install looks for the hook beside terok-gate.
	dir := filepath.Join(Dir, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, path.Base(program))
	if built := os.Getenv("TEROK_TEST_PROGRAMS"); built != "" {
		content, err := os.ReadFile(filepath.Join(built, path.Base(program)))
		if err != nil {
			return "", err
		}
		return binary, os.WriteFile(binary, content, 0o755)
	}
	build := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w", "-o", binary, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, os.Chmod(binary, 0o755)
}

// Again returns a command that runs this test binary again.
func Again(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err) // it was started, so it has a path
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append([]string{PromptExit}, os.Environ()...)
	return cmd
}

// PromptExit, in the environment, keeps the race detector from sleeping for a second at every exit.
const PromptExit = "GORACE=atexit_sleep_ms=0"

// ExitPromptly ends this process without the race detector's sleep. It is for git's hooks:
// the gate makes their environment, so they do not get PromptExit.
func ExitPromptly(status int) { syscall.Exit(status) }
