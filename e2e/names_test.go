package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A user who knows a container by its name finds the container's token in the list, and
// revokes it: as root, and with a rootless podman, which knows only its user's containers.
func TestContainersAreCalledByTheirNames(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		gate := e.withPodmanInPath(t)
		c := e.create(t, append(annotations("demo", "1"), "--name", "called-so")...)
		l := c.start(t)
		// More spaces follow the name if another test's container has a longer name.
		if out := gate("list"); !regexp.MustCompile(c.id[:12] + ` +called-so +live `).MatchString(out) {
			t.Errorf("the list does not show the name:\n%s", out)
		}
		if out := gate("revoke", "--container", "called-so"); out != "revoked 1\n" {
			t.Errorf("revoke says %q", out)
		}
		e.revoked(t, l.token)
		if out := gate("revoke", "--container", "called-otherwise"); !strings.Contains(out, "podman has none with this name") {
			t.Errorf("of a name that no container has, revoke says %q", out)
		}
	})
}

// withPodmanInPath returns a function that runs terok-gate as the engine's user, with the
// engine's podman in its PATH, and returns its output.
func (e *engine) withPodmanInPath(t *testing.T) func(args ...string) string {
	t.Helper()
	path, err := gateBinary()
	if err != nil {
		t.Fatal(err)
	}
	podman, err := exec.LookPath("podman")
	if err != nil {
		t.Fatal(err)
	}

	dir := e.tempDir(t)
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", strings.Join(append([]string{podman}, e.podmanArgs(nil)...), "' '"))
	if err := os.WriteFile(filepath.Join(dir, "podman"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}

	return func(args ...string) string {
		cmd, cancel := e.command(path, append([]string{"--token-file", e.tokenFile}, args...)...)
		defer cancel()
		cmd.Env = append(cmd.Env, "PATH="+dir+":"+os.Getenv("PATH"))
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
}
