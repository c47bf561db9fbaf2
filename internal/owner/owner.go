// Package owner answers who can change what a path leads to.
//
// The attacker is a user of this machine who owns something on the way, or may write to a
// directory there: such a user can put a link, or another file, in the place of what comes
// next. So a path is followed as the kernel follows it. The directory that a symbolic link
// leads to counts, and so does the one that the link is in.
//
// Not promised: that the answer still holds when the caller acts on it. Where a user who is
// not trusted is on the way, the caller acts as that user, or not at all.
package owner

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// Step is something that a path leads over.
type Step struct {
	Path string // without symbolic links, but for its last part
	Info fs.FileInfo
}

// UID is the step's owner.
func (s Step) UID() int { return UID(s.Info) }

// UID is the owner of a file.
func UID(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// IsLink reports whether the step is a symbolic link.
func (s Step) IsLink() bool { return s.Info.Mode()&fs.ModeSymlink != 0 }

// IsEverybodys reports whether every user can change the file, or what is in the
// directory.
func (s Step) IsEverybodys() bool {
	return !s.IsLink() && s.Info.Mode()&0o002 != 0 && s.Info.Mode()&fs.ModeSticky == 0
}

// May reports whether owner and mode give a user a permission: one of the bits of others,
// 0o4, 0o2 or 0o1. Access control lists and capabilities are not asked.
func May(info fs.FileInfo, uid, gid uint32, bit fs.FileMode) bool {
	switch stat := info.Sys().(*syscall.Stat_t); {
	case stat.Uid == uid:
		bit <<= 6
	case stat.Gid == gid:
		bit <<= 3
	}
	return info.Mode()&bit != 0
}

// ClosedTo returns the directories on the way to a path that a user cannot enter, as May
// says. They are no links.
func ClosedTo(path string, uid, gid uint32) (closed []string) {
	steps, _ := Way(path) // what cannot be followed is for others to say
	for _, s := range steps {
		if s.Info.IsDir() && s.Path != filepath.Clean(path) && !May(s.Info, uid, gid, 0o1) {
			closed = append(closed, s.Path)
		}
	}
	return closed
}

// Way returns all that an absolute path leads over, in that order: directories, symbolic
// links, and at last what the path names. Where something is missing, the way ends. Where
// it cannot be followed, it ends too, with an error that says why.
func Way(path string) ([]Step, error) {
	root, err := os.Lstat("/")
	if err != nil {
		return nil, err
	}
	w := way{steps: []Step{{"/", root}}}
	_, err = securejoin.SecureJoinVFS("/", path, &w)
	return w.steps, err
}

// way notes what securejoin looks at.
type way struct{ steps []Step }

func (w *way) Lstat(path string) (fs.FileInfo, error) {
	path = filepath.Clean(path)
	info, err := os.Lstat(path)
	seen := func(s Step) bool { return s.Path == path }
	if err == nil && !slices.ContainsFunc(w.steps, seen) { // after a link, it begins again
		w.steps = append(w.steps, Step{path, info})
	}
	return info, err
}

func (w *way) Readlink(path string) (string, error) { return os.Readlink(path) }
