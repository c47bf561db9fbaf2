// Decides on which of a container's mounts we may mount, and on which we may make a directory.

package hook

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// checkPropagation refuses a mount with shared propagation, such as a volume mounted
// :shared: a mount on it appears in every peer, on the host and in other containers, and
// stays there (mount_namespaces(7)).
func checkPropagation(m *mountinfo.Info) error {
	if !strings.Contains(m.Optional, "shared:") {
		return nil
	}
	const why = "the mount point lies on a mount with shared propagation: " +
		"the token would appear on the host and in other containers: mount the volume"
	const how = " without :shared or :rshared"
	return instead(why+how, fmt.Errorf(why+" at %s"+how, m.Mountpoint))
}

// checkNewDirectory refuses a new directory in parent if parent is on a bind mount or a
// volume. Such a mount may be meant to be read-only, but crun makes it read-only only after our
// hook (seen with crun 1.8.1). If the container's root user is the host's, no permissions keep
// makeDirectory from writing there. So a directory is made only on the root file system, or on a
// tmpfs of the container's own.
func (known mountsKnown) checkNewDirectory(root, parent *os.File) error {
	m, err := known.under(parent)
	if err != nil {
		return err
	}
	// attach would refuse such a mount, too, but only after the directory was made.
	if err := checkPropagation(m); err != nil {
		return err
	}

	rootID, err := mountID(root)
	if err != nil || rootID == uint64(m.ID) {
		return err
	}
	if m.FSType == "tmpfs" && m.Root == "/" {
		// A volume can be a tmpfs, too, but a volume is mounted on the host as well.
		device := fmt.Appendf(nil, " %d:%d ", m.Major, m.Minor)
		hosts, err := mountsOf("/proc/self/mountinfo", func(line []byte) bool { return bytes.Contains(line, device) })
		if err != nil || len(hosts) == 0 {
			return err
		}
	}
	return failure("does not exist, and the hook creates no directory on a bind mount or a volume: create it")
}

// mountsKnown caches, by id, the mounts that this thread has looked up. The kernel's table of
// mounts is slow to read: each mount in it costs 2.4 µs (Linux 6.18). Before pivot_root(2), the
// table has a copy of all the host's mounts, several for each running container.
type mountsKnown map[uint64]*mountinfo.Info

// under returns the mount that the file is on.
func (known mountsKnown) under(file *os.File) (*mountinfo.Info, error) {
	id, err := mountID(file)
	if err != nil || known[id] != nil {
		return known[id], err
	}

	begins := fmt.Appendf(nil, "%d ", id)
	found, err := mountsOf("/proc/thread-self/mountinfo", func(line []byte) bool { return bytes.HasPrefix(line, begins) })
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, failure("the mount under the mount point is not among the mounts of the container")
	}
	known[id] = found[0]
	return found[0], nil
}

func mountID(file *os.File) (uint64, error) {
	var stat unix.Statx_t
	if err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat); err != nil {
		return 0, because("mount under the mount point", err)
	}
	if stat.Mask&unix.STATX_MNT_ID == 0 {
		return 0, failure("mount under the mount point: the kernel does not report its id")
	}
	return stat.Mnt_id, nil
}

// mountsOf returns the mounts in the wanted lines of a table (proc_pid_mountinfo(5)). It does not
// parse the other lines.
func mountsOf(table string, wanted func(line []byte) bool) ([]*mountinfo.Info, error) {
	file, err := os.Open(table)
	if err != nil {
		return nil, because("mounts of the container", err)
	}
	defer file.Close()

	var lines bytes.Buffer
	all := bufio.NewScanner(file)
	for all.Scan() {
		if wanted(all.Bytes()) {
			lines.Write(all.Bytes())
			lines.WriteByte('\n')
		}
	}

	found, err := mountinfo.GetMountsFromReader(&lines, nil)
	if err = cmp.Or(all.Err(), err); err != nil {
		return nil, because("mounts of the container", err)
	}
	return found, nil
}
