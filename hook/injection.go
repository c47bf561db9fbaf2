// Collects everything that an injection needs (content, place, owner and mode) before
// anything is mounted.

package hook

import (
	"io/fs"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"terok-gate-hook/store"
)

// injection describes a directory with files to be mounted in a container.
type injection struct {
	process  *store.Pinned // the container's process
	rootfs   string        // the root file system, as that process sees it before pivot_root(2)
	label    string        // SELinux label of the directory; empty for none
	files    []file
	mode     fs.FileMode // of the files that hold a secret
	uid, gid int         // the owner of those files, in our user namespace
	ids      idMaps      // of the container
}

// readInjection returns the injection for a container. The container's process is alive and waits for
// the hook. The container's root file system is complete, but the process has not entered it: crun and
// runc run prestart and createRuntime hooks before pivot_root(2).
func (s Settings) readInjection(state specs.State, process *store.Pinned, want request, token store.Token) (in injection, err error) {
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

	in = injection{process: process, rootfs: config.Root.Path, mode: want.mode}
	if in.files, err = s.files(want, token, state.ID, config.Process.Env); err != nil {
		return in, err
	}
	if config.Linux != nil {
		in.label = config.Linux.MountLabel
	}

	if err := checkMountNamespace(process); err != nil {
		return in, err
	}
	if in.ids, err = idsOf(process); err != nil {
		return in, err
	}
	err = in.ownedBy(config.Process.User)
	return in, err
}

// ownedBy sets the owner of the files that hold a secret to a user of the container's.
func (in *injection) ownedBy(user specs.User) (err error) {
	if in.uid, err = in.ids.uid.ours(user.UID); err != nil {
		return because("user of the container's process", err)
	}
	if in.gid, err = in.ids.gid.ours(user.GID); err != nil {
		return because("group of the container's process", err)
	}
	return nil
}

// checkMountNamespace refuses a process that shares our mount namespace or the host's: the
// injected directory would appear there.
func checkMountNamespace(process *store.Pinned) error {
	switch shared, err := sharesWithHost(process, "mnt"); {
	case err != nil:
		return because("mount namespace of the container", err)
	case shared:
		return failure("the container is in the host's mount namespace: " +
			"the token would appear on the host: give the container its own mount namespace")
	}
	return nil
}

// sharesWithHost reports whether a process is in our namespace of a kind (namespaces(7)), or in the
// host's.
func sharesWithHost(process *store.Pinned, kind string) (bool, error) {
	namespace, err := process.Link("ns/" + kind)
	if err != nil {
		return false, err
	}
	for _, other := range []string{"self", "1"} {
		// A rootless engine may not be able to see process 1. In that case, the container
		// cannot be in the host's namespace either.
		if hosts, err := os.Readlink("/proc/" + other + "/ns/" + kind); err == nil && hosts == namespace {
			return true, nil
		}
	}
	return false, nil
}
