// Checks the file of devices, which Docker and other engines read.

package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
)

// devices checks that no other user can change the file of devices, that the hooks in the file can run and
// ask the installed gate, and that each repository has a device. It reports nothing if there is neither a
// file nor an engine, other than podman, to read it.
func (e *examination) devices() {
	file := e.Place.Devices
	if file == "" {
		return
	}
	anew := aside(file) + " && " + e.install() // install replaces only files that it wrote
	if err := engines.CheckDevicesOwner(file); err != nil {
		e.broken(err.Error(), devicesOfOurs(file, anew))
		e.stop()
		return
	}

	devices, program, err := e.Place.ReadDevices()
	switch others := e.Place.OtherEngines(); {
	case err != nil:
		e.broken(err.Error(), anew)
		e.stop()
		return
	case devices == nil && len(others) > 0:
		e.broken(fmt.Sprintf("there is no %s to give devices to %s", file, strings.Join(others, " and ")), e.install())
		e.stop()
		return
	case devices == nil:
		return
	}

	r, there, err := e.Place.Registration()
	if err != nil || !there {
		e.broken(file+" exists, but the rest of the installation does not", e.install())
		e.stop()
		return
	}
	if !e.program(file, program) {
		return
	}
	for name, settings := range devices {
		if settings.GateSocket != r.Settings.GateSocket || settings.Tokens.Path != r.Settings.Tokens.Path {
			e.broken(fmt.Sprintf("device %s in %s asks another gate than the installed one", name, file), e.install())
			return
		}
		if name != engines.AnnotatedDevice {
			e.devicesOf = append(e.devicesOf, name)
		}
	}
	slices.Sort(e.devicesOf)

	missing, err := e.Place.NoDevices(devices)
	if err != nil {
		e.broken("devices: "+err.Error(), e.install())
		return
	}
	if len(missing) > 0 {
		e.warn("repositories without a device: "+strings.Join(missing, ", "), e.install())
		return
	}
	e.ok(fmt.Sprintf("%d in %s", len(devices), file))
}

// devicesOfOurs returns the remedy if another user can change the file of devices. If that user can
// change only the file itself, not its directory, the remedy is the argument anew, a command that
// replaces the file: the file may contain anything by now.
func devicesOfOurs(file, anew string) string {
	dir := filepath.Dir(file)
	if engines.CheckDevicesOwner(dir) == nil {
		return anew
	}
	info, err := os.Stat(dir)
	if err == nil && owner.UID(info) == os.Geteuid() && engines.CheckDevicesOwner(filepath.Dir(dir)) == nil {
		return printable.Shell("chmod", "go-w", dir)
	}
	if who, _, remedy := writers(dir, owners(file)); who != "" {
		return remedy
	}
	return owners(file)
}
