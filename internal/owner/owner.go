// Package owner finds out which users can change what a path leads to.
//
// The attacker is a user of this machine who owns a step of the path, or may write to a directory
// on the path: such a user can put a link, or another file, in the place of the next step. So a
// path is followed as the kernel follows it. For a symbolic link, both the directory that the link
// is in and the one that it leads to count.
//
// The answer may no longer hold when the caller acts on it. Where an untrusted user owns a step,
// the caller must act as that user or not at all.
package owner

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// Step is a directory, symbolic link or file that a path leads over.
type Step struct {
	Path string // only its last part can be a symbolic link
	Info fs.FileInfo
}

// UID returns the step's owner.
func (s Step) UID() int { return UID(s.Info) }

// UID returns the owner of a file.
func UID(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// GID returns the group of a file.
func GID(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }

// OverflowID is the id that a user namespace shows for users and groups that have none there, such
// as the host's root (user_namespaces(7)).
const OverflowID = 65534

// IsAnother reports whether an owner is neither root nor the caller. Inside a user namespace,
// OverflowID is taken for the host's root.
func IsAnother(uid int, insideUserNamespace bool) bool {
	return uid != 0 && uid != os.Geteuid() && (uid != OverflowID || !insideUserNamespace)
}

// IsLink reports whether the step is a symbolic link.
func (s Step) IsLink() bool { return s.Info.Mode()&fs.ModeSymlink != 0 }

// IsWorldWritable reports whether every user can change the file, or replace what is in the
// directory. A sticky directory does not count: there, users cannot replace each other's files.
func (s Step) IsWorldWritable() bool {
	return !s.IsLink() && s.Info.Mode()&0o002 != 0 && s.Info.Mode()&fs.ModeSticky == 0
}

// May reports whether a file's owner and mode give a user a permission: 0o4 to read, 0o2 to
// write, 0o1 to enter or execute. It ignores access control lists and capabilities.
func May(info fs.FileInfo, uid, gid uint32, bit fs.FileMode) bool {
	switch stat := info.Sys().(*syscall.Stat_t); {
	case stat.Uid == uid:
		bit <<= 6
	case stat.Gid == gid:
		bit <<= 3
	}
	return info.Mode()&bit != 0
}

// ClosedTo returns the directories that a user cannot enter on the way to a path, judged by [May].
func ClosedTo(path string, uid, gid uint32) (closed []string) {
	steps, _ := Way(path) // the caller reports a path that cannot be followed
	for _, s := range steps {
		if s.Info.IsDir() && s.Path != filepath.Clean(path) && !May(s.Info, uid, gid, 0o1) {
			closed = append(closed, s.Path)
		}
	}
	return closed
}

// Way returns the steps of an absolute path in order: directories, symbolic links, and last
// the file that the path names. The way ends at the first step that is missing. If the path
// cannot be followed, Way returns the steps so far and an error.
func Way(path string) ([]Step, error) {
	root, err := os.Lstat("/")
	if err != nil {
		return nil, err
	}

	w := way{steps: []Step{{"/", root}}}
	_, err = securejoin.SecureJoinVFS("/", path, &w)
	return w.steps, err
}

// way records what securejoin looks at.
type way struct{ steps []Step }

func (w *way) Lstat(path string) (fs.FileInfo, error) {
	path = filepath.Clean(path)
	info, err := os.Lstat(path)
	seen := func(s Step) bool { return s.Path == path }
	if err == nil && !slices.ContainsFunc(w.steps, seen) { // after a link, securejoin begins again
		w.steps = append(w.steps, Step{path, info})
	}
	return info, err
}

func (w *way) Readlink(path string) (string, error) { return os.Readlink(path) }
