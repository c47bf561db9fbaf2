// Asks podman for the names of its containers.

package engines

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ContainerNames returns the names of all containers that podman has for this user, by
// container id. It waits for podman for a few seconds, since podman waits for containers that
// are starting.
func ContainerNames(ctx context.Context) (map[string]string, error) {
	const patience = 3 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	cmd := exec.CommandContext(ctx, "podman", "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}")
	// Unlike SIGKILL, SIGTERM does not end podman while it holds a lock.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Second // a child of podman's may still hold our pipe
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("podman ps did not answer within %v", patience)
	}
	if err != nil {
		return nil, fmt.Errorf("podman ps failed: %w", commandError(err))
	}

	names := map[string]string{}
	for line := range bytes.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		names[id] = name
	}
	return names, nil
}
