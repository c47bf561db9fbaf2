// Injection into the container: a small tmpfs of its own, mounted read-only into
// the container's mount namespace. The token touches no storage of the container's
// and is gone with the namespace, even without any clean-up.

package hook

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mount makes the directory, with the files in it, and attaches it.
func (in injection) mount() error {
	directory, err := newDirectory(in.label)
	if err != nil {
		return because("make a tmpfs", err)
	}
	defer unix.Close(directory)
	if err := in.fill(directory); err != nil {
		return err
	}
	return in.attach(directory)
}

// newDirectory returns a tmpfs that is mounted nowhere yet, a few pages large.
func newDirectory(label string) (mount int, err error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, kernelTooOld(err)
	}
	defer unix.Close(fsfd)
	for _, option := range []struct {
		name  text
		value string
	}{{"source", "terok-gate"}, {"size", "64k"}, {"nr_inodes", "16"}, {"mode", "0555"}, {"context", label}} {
		if option.value == "" {
			continue
		}
		if err := unix.FsconfigSetString(fsfd, string(option.name), option.value); err != nil {
			return -1, because("option "+option.name, instead(reason(err), fmt.Errorf("%q: %w", option.value, err)))
		}
	}
	// Keeps the token out of swap. Only as real root, and since Linux 6.4.
	_ = unix.FsconfigSetFlag(fsfd, "noswap")
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, err
	}
	return unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// fill writes the files and makes the directory read-only, before it is attached: the
// container never sees a half-made one.
func (in injection) fill(directory int) error {
	// A process that is forked in between keeps a descriptor open for writing until it
	// executes its program. Until then the directory cannot be made read-only (EBUSY).
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

	// What everybody may read may stay ours. Its mode is set all the same: the umask may be any.
	if f.public {
		return unix.Fchmod(fd, 0o444)
	}
	if err := unix.Fchown(fd, in.uid, in.gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, uint32(in.mode))
}

// attach enters the container's mount namespace and moves the directory to its mount
// point inside the root file system.
//
// It does so on an operating-system thread of its own with file-system attributes
// (root, working directory, umask) of its own, which setns(2) demands. The thread
// is never used for anything else: it ends with the goroutine.
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

// onThreadOfItsOwn runs f on a thread that ends with it. That must not be the main
// thread, which would not end but stay in the container's mount namespace, and which
// /proc/self shows. A goroutine that gets the main thread holds on to it, while
// another one, which thus gets another thread, runs f.
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

// openMountPoint returns a handle of MountPath in the root file system, which it creates if it is
// not there. The image's author is the attacker: symbolic links are resolved
// inside the root file system, as the container will see them, and wherever they
// point, nothing outside it is opened, created or changed.
func openMountPoint(rootfs string, ids idMaps, known mountsKnown) (*os.File, error) {
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, because("root file system", err)
	}
	defer root.Close()
	fail := func(path string, err error) (*os.File, error) {
		return nil, because(text(path)+" in the container's root file system", err)
	}
	// One directory at a time, so that each new one is made in a directory that was checked.
	// New ones belong to the container's root user: podman commit fails on a file of
	// an id that the container cannot map.
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

// openDirectoryInRoot opens a directory on the way to the mount point. The last one must
// not be a symbolic link: an image could have us cover /proc, /etc or the root.
func openDirectoryInRoot(root, parent *os.File, path string, last bool) (*os.File, error) {
	if !last {
		return openInRoot(root, path)
	}
	fd, err := unix.Openat(int(parent.Fd()), filepath.Base(path), unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, failure("is not a directory, or a symbolic link")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openInRoot opens what the path leads to, as if the directory were the root, whatever
// symbolic links and ".." it leads over. That is openat2(2)'s work, which is older than
// mount_setattr(2), without which there is no injection: pathrs-lite, for kernels without
// it, also mounts a proc of its own for the name of each file, and unmounts it.
func openInRoot(root *os.File, path string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	const tries = 100
	for try := 1; ; try++ {
		fd, err := unix.Openat2(int(root.Fd()), path, how)
		// Somebody renamed or mounted something, anywhere, while a ".." was followed: that
		// may be an accident, or the container, which must not keep us for ever.
		again := err == unix.EAGAIN || err == unix.EXDEV || err == unix.EINTR
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !again || try == tries:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// makeDirectory creates the directory in parent, as the container's root user. To create it
// as the host's root and call chown(2) would be wrong: another container that shares
// parent may have put something else in its place by then; and where the container's
// root may not create a directory, on a volume say, we must not do so for it.
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
	if ours, err = unix.SetfsuidRetUid(uid); err != nil { // drops the capabilities that matter, if not 0
		return err
	}
	defer unix.SetfsuidRetUid(ours)
	err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// kernelTooOld adds the way out to an error that means that the kernel does not know the
// call. The calls are in Linux 5.12; all of the product needs 5.14.
func kernelTooOld(err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return instead(reason(err)+": Linux 5.14 or later is needed", fmt.Errorf("%w: Linux 5.14 or later is needed", err))
	}
	return err
}
