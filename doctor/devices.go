// Checks the file of devices, which Docker and other engines read.

package doctor

import (
	"fmt"
	"os"
	"strings"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
)

// devices checks that the file is root's, that its hooks can run, and that it has every
// repository. It reports nothing where no engine reads it and none was written.
func (e *examination) devices() {
	if e.Place.Devices == "" {
		return
	}
	if err := engines.CheckDevicesOwner(e.Place.Devices); err != nil {
		e.broken(err.Error(), "see who may write there: "+printable.Shell("namei", "-l", e.Place.Devices))
		return
	}
	devices, program, err := e.Place.ReadDevices()
	switch {
	case err != nil:
		e.broken(err.Error(), e.install())
		return
	case devices == nil && len(e.Place.OtherEngines()) > 0:
		e.broken(fmt.Sprintf("%s reads no devices: there is no %s", strings.Join(e.Place.OtherEngines(), " and "), e.Place.Devices), e.install())
		return
	case devices == nil:
		return
	}

	if info, err := os.Stat(program); err != nil || info.Mode()&0o111 == 0 {
		e.broken(fmt.Sprintf("%s runs %s, which is not there: no container with a device starts", e.Place.Devices, printable.Line(program)), e.install())
		return
	}
	missing, err := e.Place.NoDevices(devices)
	if err != nil {
		e.broken("devices: "+err.Error(), e.install())
		return
	}
	if len(missing) > 0 {
		e.warn(fmt.Sprintf("repositories without a device: %s", printable.Line(strings.Join(missing, ", "))), e.install())
		return
	}
	e.ok(fmt.Sprintf("%d in %s", len(devices), e.Place.Devices))
}
