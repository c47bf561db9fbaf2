// Updates the devices of Docker and other engines after a repository is added, renamed or removed.

package main

import (
	"fmt"
	"os"
	"slices"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
)

// updateDevices updates the file of devices after a command has added, renamed or removed a
// repository. If that fails, it only prints the error, since the command has done its work. made is
// the name of the added project, the new name of a renamed one, or "" after a removal.
func updateDevices(command, made string) {
	place, err := engines.OwnPlace()
	if err != nil {
		return // nothing can be installed here
	}
	left, err := place.UpdateDevices()
	if err != nil {
		printError(fmt.Errorf("%s: the devices do not match the repositories: %w: run terok-gate install again", command, err))
	}
	if made != "" && slices.Contains(left, made) {
		fmt.Fprintf(os.Stderr, "terok-gate: %s: %s\n", command, noDevice(made))
	}
}

// noDevice returns a hint about a project that cannot be a device.
func noDevice(project string) string {
	return fmt.Sprintf("project %s cannot be a device: annotate its containers, or give it a name that ends in a letter or digit and is not %q",
		printable.Line(project), engines.AnnotatedDevice)
}
