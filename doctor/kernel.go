// Checks that the kernel is recent enough for the hooks and for the gate: Linux 5.14.

package doctor

import (
	"errors"

	"golang.org/x/sys/unix"
)

// kernel tries what older kernels lack: mount_setattr(2), which the hooks need (Linux
// 5.12), and SO_NETNS_COOKIE, by which the gate tells containers apart (Linux 5.14).
func (e *examination) kernel() {
	const remedy = "use Linux 5.14 or later"
	var name unix.Utsname
	_ = unix.Uname(&name) // fails only for a bad address (uname(2))
	release := "Linux " + unix.ByteSliceToString(name.Release[:])

	// Without a mount, this call always fails, but with ENOSYS only if the kernel lacks it.
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		e.broken(release+" cannot mount a directory into a container: it has no mount_setattr(2)", remedy)
		return
	}
	if !hasNetworkCookies() {
		e.broken(release+" cannot tell containers' networks apart: it has no SO_NETNS_COOKIE", remedy)
		return
	}

	e.ok(release)
}

// hasNetworkCookies reports whether the kernel has SO_NETNS_COOKIE.
func hasNetworkCookies() bool {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true // this error says nothing about the option
	}
	defer unix.Close(socket)

	_, err = unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return !errors.Is(err, unix.ENOPROTOOPT) && !errors.Is(err, unix.ENOSYS)
}
