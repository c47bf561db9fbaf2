// What is injected into a container, where, and with which owner and mode: all that has
// to be read and decided before the kernel is asked to mount anything.

package hook

import (
	"fmt"
	"io/fs"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

// injection is a folder with files that a container is to find.
type injection struct {
	process  int    // a pidfd of the container's process
	rootfs   string // as that process sees it, before pivot_root(2)
	label    string // SELinux's, of the folder; empty for none
	files    []file
	mode     fs.FileMode // of the files that hold a secret
	uid, gid int         // the owner of those, as our user namespace calls it
	ids      idMaps      // of the container
}

// readInjection finds out what the container is to get. The container's process is
// alive and waits for us; its root file system is complete but not yet its root
// (crun and runc run prestart and createRuntime hooks before pivot_root(2)).
func (s Settings) readInjection(state specs.State, want request, token store.Token) (in injection, err error) {
	config, err := readConfiguration(state.Bundle)
	if err != nil {
		return in, err
	}
	if s.WithholdToken {
		if err := config.checkAlone(); err != nil {
			return in, err
		}
		token = ""
	}
	in = injection{rootfs: config.Root.Path, mode: want.mode}
	if in.files, err = s.files(want, token, state.ID, config.Process.Env); err != nil {
		return in, err
	}
	if config.Linux != nil {
		in.label = config.Linux.MountLabel
	}
	if in.process, err = openProcess(state.Pid); err != nil {
		return in, err
	}
	// Read while the pidfd is open. If another process has the pid by now, these are its
	// ids, but they do no harm: the mount goes by the pidfd, and fails.
	if in.ids, err = idsOf(state.Pid); err == nil {
		err = in.ownedBy(config.Process.User)
	}
	if err != nil {
		in.close()
	}
	return in, err
}

func (in *injection) ownedBy(user specs.User) (err error) {
	if in.uid, err = in.ids.uid.ours(user.UID); err != nil {
		return because("user of the container's process", err)
	}
	if in.gid, err = in.ids.gid.ours(user.GID); err != nil {
		return because("group of the container's process", err)
	}
	return nil
}

func (in injection) close() { unix.Close(in.process) }

// openProcess returns a pidfd of the container's process, and refuses one that
// shares our mount namespace or the host's: the folder would appear there.
func openProcess(pid int) (int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, because("container process", kernelTooOld(err))
	}
	shared, err := sharesWithHost(pid, "mnt")
	if err != nil {
		err = because("mount namespace of the container", err)
	} else if shared {
		err = failure("the container is in the host's mount namespace: " +
			"the token would be there for everybody: give the container a mount namespace of its own")
	}
	if err != nil {
		unix.Close(process)
		return -1, err
	}
	return process, nil
}

// sharesWithHost tells whether a process is in our namespace of a kind (namespaces(7)),
// or in that of the host.
func sharesWithHost(pid int, kind string) (bool, error) {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return false, err
	}
	for _, other := range []string{"self", "1"} {
		// Process 1 can be out of sight for a rootless engine: then its namespace
		// is out of the container's reach too.
		if hosts, err := os.Readlink("/proc/" + other + "/ns/" + kind); err == nil && hosts == namespace {
			return true, nil
		}
	}
	return false, nil
}
