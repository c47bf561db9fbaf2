// Finds containers that will lack the hooks when they start again.

package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"terok-gate-hook/engines"
)

// containers looks for containers that were made with --hooks-dir on podman's command line: podman forgets
// this flag when it starts the container again.
func (e *examination) containers() {
	if e.noPodman {
		return
	}
	ids, err := e.command("podman", "ps", "--all", "--quiet", "--no-trunc")
	if err != nil {
		e.broken("podman ps: "+err.Error(), "fix podman first")
		return
	}
	if strings.TrimSpace(ids) == "" {
		return
	}

	// If a container was removed meanwhile, podman fails, but still describes the others.
	out, err := e.command("podman", append([]string{"container", "inspect"}, strings.Fields(ids)...)...)
	var all []struct {
		Name   string
		Config struct {
			Annotations   map[string]string
			CreateCommand []string
		}
	}
	if jsonErr := json.Unmarshal([]byte(out), &all); jsonErr != nil {
		e.broken(fmt.Sprintf("podman container inspect: %v", errors.Join(err, jsonErr)), "fix podman first")
		return
	}

	for _, c := range all {
		dirs := hooksDirs(c.Config.CreateCommand)
		if len(dirs) == 0 || e.registered("prestart") != nil {
			continue
		}
		if definitions := engines.DefinitionsIn(dirs); len(definitions) > 0 {
			e.broken(fmt.Sprintf("container %s was made with --hooks-dir %s, which podman forgets when it starts the container again", c.Name, strings.Join(dirs, " ")),
				e.installLike(definitions))
		}
	}
}

// hooksDirs returns the values of --hooks-dir on podman's command line.
func hooksDirs(command []string) (dirs []string) {
	const flag = "--hooks-dir"
	for i, arg := range command {
		// Podman's own flags come first; later words may be for the container's program.
		if arg == "run" || arg == "create" || arg == "container" {
			break
		}
		if dir, ok := strings.CutPrefix(arg, flag+"="); ok {
			dirs = append(dirs, dir)
		} else if arg == flag && i+1 < len(command) {
			dirs = append(dirs, command[i+1])
		}
	}
	return dirs
}
