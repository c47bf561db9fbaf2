// Checks that the machine has an id of its own that lasts over reboots.

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// machineID reads machine-id(5) as package store does.
func (e *examination) machineID() {
	const path = "/etc/machine-id"
	content, err := os.ReadFile(path)
	id, _, _ := strings.Cut(string(content), "\n")
	id = strings.TrimSpace(id)

	wrong := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		wrong = "is missing"
	case err != nil:
		e.broken(err.Error(), asRoot("chmod", "a+r", path))
		return
	case id == "":
		wrong = "is empty"
	case len(id) != 32:
		wrong = fmt.Sprintf("holds %.32q, which is not an id", id)
	default:
		e.ok(path + " is there")
		return
	}

	// systemd-machine-id-setup(1) does not replace the text "uninitialized" (systemd 257).
	remedy := asRoot("sh", "-c", "tr -d - </proc/sys/kernel/random/uuid >"+path)
	e.warn(fmt.Sprintf("%s %s: until the next reboot, the tokens of dead containers are swept; after a reboot, containers that "+
		"ran before it cannot be proved dead, and their tokens stay valid", path, wrong), remedy)
}
