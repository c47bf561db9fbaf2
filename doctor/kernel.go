// Whether the kernel can put a directory into a container.

package doctor

import (
	"errors"

	"golang.org/x/sys/unix"
)

func (e *examination) kernel() {
	var name unix.Utsname
	_ = unix.Uname(&name) // fails for a bad address only (uname(2))
	release := "Linux " + unix.ByteSliceToString(name.Release[:])
	// Called without a mount, it fails anyway: with ENOSYS only if the kernel lacks it.
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		e.broken(release+" cannot mount a directory into a container: it has no mount_setattr(2)", "use Linux 5.12 or later")
		return
	}
	e.ok(release)
}
