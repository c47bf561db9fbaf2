// Injects files into the container: mounts a small tmpfs, read-only, in the container's mount
// namespace. The token never reaches the container's storage, and disappears with the
// namespace, even without any clean-up.

package hook

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mount makes the tmpfs with the files in it, and attaches it to its mount point.
func (in injection) mount() error {
	directory, err := newDirectory(in.label, in.size())
	if err != nil {
		return because("make a tmpfs", err)
	}
	defer unix.Close(directory)

	if err := in.fill(directory); err != nil {
		return err
	}
	return in.attach(directory)
}

// size returns how large the tmpfs may become, in KiB: a few pages, or more if the projects
// have many addresses.
func (in injection) size() int {
	kib := 64
	for _, f := range in.files {
		kib += len(f.content) >> 10
	}
	return kib
}

// newDirectory returns a detached mount of a new tmpfs, which can hold size KiB.
func newDirectory(label string, size int) (mount int, err error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, kernelTooOld(err)
	}
	defer unix.Close(fsfd)

	for _, option := range []struct {
		name  text
		value string
	}{{"source", "terok-gate"}, {"size", strconv.Itoa(size) + "k"}, {"nr_inodes", "16"}, {"mode", "0555"}, {"context", label}} {
		if option.value == "" {
			continue
		}
		if err := unix.FsconfigSetString(fsfd, string(option.name), option.value); err != nil {
			return -1, because("option "+option.name, instead(reason(err), fmt.Errorf("%q: %w", option.value, err)))
		}
	}
	// This keeps the token out of swap. It works for real root only, since Linux 6.4.
	_ = unix.FsconfigSetFlag(fsfd, "noswap")

	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, err
	}
	return unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// fill writes the files and makes the tmpfs read-only. The tmpfs is attached only afterwards,
// so the container never sees an incomplete directory.
func (in injection) fill(directory int) error {
	// If another goroutine forked meanwhile, the child would keep a file open for writing until the
	// child executes its program. Until then, the tmpfs could not be made read-only (EBUSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()

	for _, f := range in.files {
		if err := in.writeFile(directory, f); err != nil {
			return because("write "+f.name, err)
		}
	}

	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(directory, "", unix.AT_EMPTY_PATH, readOnly); err != nil {
		return because("make the tmpfs read-only", kernelTooOld(err))
	}
	return nil
}

func (in injection) writeFile(directory int, f file) error {
	fd, err := unix.Openat(directory, string(f.name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(in.writeTo(fd, f), unix.Close(fd))
}

// writeTo writes a file's content and sets its owner and mode.
func (in injection) writeTo(fd int, f file) error {
	for rest := f.content; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}

	// A public file needs no other owner than us, but its mode must not depend on the umask.
	if f.public {
		return unix.Fchmod(fd, 0o444)
	}
	if err := unix.Fchown(fd, in.uid, in.gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, uint32(in.mode))
}

// attach enters the container's mount namespace and moves the tmpfs to its mount point
// inside the root file system.
//
// setns(2) needs a thread that shares its file-system attributes (root, working directory, umask)
// with no other thread. The thread is used for nothing else.
func (in injection) attach(directory int) error {
	return onThreadOfItsOwn(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return because("unshare the thread's file-system attributes", err)
		}
		if err := unix.Setns(in.process.Pidfd(), unix.CLONE_NEWNS); err != nil {
			return because("enter the container's mount namespace", err)
		}

		unix.Umask(0o022)
		known := mountsKnown{}
		point, err := openMountPoint(in.rootfs, in.ids, known)
		if err != nil {
			return err
		}
		defer point.Close()

		below, err := known.under(point)
		if err == nil {
			err = checkPropagation(below)
		}
		if err != nil {
			return err
		}

		err = unix.MoveMount(directory, "", int(point.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		if err != nil {
			return because("attach the tmpfs", err)
		}
		return nil
	})
}

// onThreadOfItsOwn runs f on a thread that ends after f. The main thread must not run f: it does
// not end, so it would stay in the container's namespaces, and /proc/self would show these. So
// a goroutine on the main thread keeps that thread locked while another goroutine runs f, on
// another thread.
func onThreadOfItsOwn(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onThreadOfItsOwn(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// openMountPoint returns a handle of MountPath in the root file system. If MountPath does not exist,
// openMountPoint creates it. The attacker is the image's author, who may have put symbolic links there.
// They are resolved inside the root file system, as the container will see them. Nothing outside the
// root file system is opened, created or changed.
func openMountPoint(rootfs string, ids idMaps, known mountsKnown) (*os.File, error) {
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, because("root file system", instead(reason(err)+otherKernel, fmt.Errorf("%w%s", err, otherKernel)))
	}
	defer root.Close()
	fail := func(path string, err error) (*os.File, error) {
		return nil, because(text(path)+" in the container's root file system", err)
	}

	// One directory at a time, so that each new directory is made in one that was checked.
	// New directories belong to the container's root user: podman commit fails on files whose
	// owner the container cannot map.
	path := ""
	point, err := openInRoot(root, "/")
	if err != nil {
		return fail("/", err)
	}

	for name := range strings.SplitSeq(strings.TrimPrefix(MountPath, "/"), "/") {
		path += "/" + name
		next, err := openDirectoryInRoot(root, point, path, path == MountPath)
		if errors.Is(err, fs.ErrNotExist) {
			if err = known.checkNewDirectory(root, point); err == nil {
				if err = makeDirectory(point, name, ids); err == nil {
					next, err = openDirectoryInRoot(root, point, path, path == MountPath)
				}
			}
		}
		point.Close()
		if err != nil {
			return fail(path, err)
		}

		point = next
		info, err := point.Stat()
		if err == nil && !info.IsDir() {
			err = failure("is not a directory")
		}
		if err != nil {
			point.Close()
			return fail(path, err)
		}
	}
	return point, nil
}

// openDirectoryInRoot opens a directory on the way to the mount point or, with last, the mount
// point itself. The mount point must not be a symbolic link: with such a link, an image could make us
// mount over /proc, /etc or the root.
func openDirectoryInRoot(root, parent *os.File, path string, last bool) (*os.File, error) {
	if !last {
		return openInRoot(root, path)
	}
	fd, err := unix.Openat(int(parent.Fd()), filepath.Base(path), unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, failure("is a symbolic link, or not a directory")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openInRoot opens a path as if root were the root directory, even if the path has symbolic links or
// "..". It needs openat2(2): kernels without openat2(2) also lack mount_setattr(2), without which there
// is no injection. (pathrs-lite supports older kernels, but mounts and unmounts a
// proc for each file.)
func openInRoot(root *os.File, path string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	const tries = 100
	for try := 1; ; try++ {
		fd, err := unix.Openat2(int(root.Fd()), path, how)
		// EAGAIN: something was renamed or mounted, anywhere, while a ".." was followed. A
		// container may cause this again and again, and must not keep us busy indefinitely.
		again := err == unix.EAGAIN || err == unix.EXDEV || err == unix.EINTR
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !again || try == tries:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// makeDirectory creates the directory in parent, as the container's root user. Creating it
// as the host's root and then calling chown(2) would be wrong: another container that shares
// parent may have replaced the new directory by then. And where the container's root may not
// create a directory, for example on a volume, we must not do so either.
func makeDirectory(parent *os.File, name string, ids idMaps) error {
	uid, err := ids.uid.ours(0)
	if err != nil {
		return because("the container's root user", err)
	}
	gid, err := ids.gid.ours(0)
	if err != nil {
		return because("the container's root group", err)
	}

	ours, err := unix.SetfsgidRetGid(gid)
	if err != nil {
		return err
	}
	defer unix.SetfsgidRetGid(ours)
	if ours, err = unix.SetfsuidRetUid(uid); err != nil { // if uid is not 0, this drops the capabilities that matter
		return err
	}
	defer unix.SetfsuidRetUid(ours)

	err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// kernelTooOld adds the required version to an error that means that the kernel lacks a
// system call. The calls here are in Linux 5.12, but other parts of the product need 5.14.
func kernelTooOld(err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return instead(reason(err)+": Linux 5.14 or later is needed", fmt.Errorf("%w: Linux 5.14 or later is needed", err))
	}
	return err
}
