// Package engines registers the hooks with podman and other engines, for the system or for one
// user, and removes them again. It has systemd run the gate and the other services.
//
// It changes no files of others: it replaces or removes a file only if the content says that the
// file is ours. It asks podman for the directories of hook definitions, because podman reads
// the list of them from containers.conf files in many places (containers.conf(5)).
package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// Version returns podman's version as major and minor.
func Version(ctx context.Context) (major, minor int, err error) {
	out, err := exec.CommandContext(ctx, "podman", "version", "--format", "{{.Client.Version}}").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return 0, 0, errors.New("podman is not installed, or not in PATH: install podman, and crun or runc")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("podman version failed: %w", commandError(err))
	}
	if _, err := fmt.Sscanf(string(out), "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("podman's version %q: %w", bytes.TrimSpace(out), err)
	}
	return major, minor, nil
}

// ImagesAnnotate reports whether annotations of an image reach the hook as if the
// user had set them: seen with podman 4.3.1, gone with 4.6.
func ImagesAnnotate(major, minor int) bool { return isBefore(major, minor, 4, 6) }

// passesEnvironment reports whether podman passes its environment on to the process that
// cleans up after a container and runs its poststop hooks: 4.3.1 does not, 4.8 and later
// do (seen with 5.4.2 and 6.1.1).
func passesEnvironment(major, minor int) bool { return !isBefore(major, minor, 4, 8) }

// listsAppend reports whether a list in containers.conf can say {append=true}: possible since 4.8
// (containers/common 0.57). With such a list, an older podman does not start.
func listsAppend(major, minor int) bool { return !isBefore(major, minor, 4, 8) }

func isBefore(major, minor, otherMajor, otherMinor int) bool {
	return major < otherMajor || major == otherMajor && minor < otherMinor
}

// HookDirs returns the directories from which podman reads hook definitions, in podman's order: a
// definition replaces those of the same name in earlier directories. Podman writes the directories to
// its debug log when it starts a container. So HookDirs starts a container, whose root file system is
// empty so that nothing runs.
func HookDirs(ctx context.Context) ([]string, error) {
	empty, err := os.MkdirTemp("", "terok-gate-probe-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(empty)

	log, err := exec.CommandContext(ctx, "podman", "--log-level", "debug", "run", "--rm", "--network", "none",
		"--rootfs", empty, "/nothing").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("podman run failed: %w", err)
	}

	var dirs []string
	readsHooks := regexp.MustCompile(`msg="reading hooks from (.*)"`)
	for _, match := range readsHooks.FindAllSubmatch(log, -1) {
		// The log quotes as Go does.
		dir, err := strconv.Unquote(`"` + string(match[1]) + `"`)
		if err != nil {
			return nil, fmt.Errorf("podman's hook directory %q: %w", match[1], err)
		}
		dirs = append(dirs, dir)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("podman run failed before it read any hooks: %s", LastLine(log))
	}
	return dirs, nil
}

// LastLine returns the last line of a program's output.
func LastLine(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return lines[len(lines)-1]
}

// commandError adds what the command wrote to standard error.
func commandError(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, LastLine(exit.Stderr))
	}
	return err
}
