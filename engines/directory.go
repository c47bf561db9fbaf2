// Checks and makes the directories that belong to the gate.

package engines

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/untrusted"
)

// directory is a directory that belongs to the gate's user.
type directory struct {
	path  string
	owner *account // nil: this user
}

// isThere reports whether the directory exists. Another kind of file at its path is an error. If f.owner is
// set, isThere also returns an error if the directory does not belong to f.owner, if the directory is closed
// to f.owner, or if a user other than root and f.owner could replace the directory.
func (f directory) isThere() (bool, error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, f.checkAbove()
	}
	switch {
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, fmt.Errorf("%s is not a directory", f.path)
	case f.owner == nil:
		return true, nil
	}
	if err := f.checkAbove(); err != nil {
		return false, err
	}

	if owner.UID(info) != int(f.owner.uid) {
		return false, fmt.Errorf("%s does not belong to the gate, which runs as user %s: %s", f.path, f.owner.name,
			printable.Shell("chown", "-R", "-h", "--from=root", f.owner.name, f.path))
	}
	if closed := owner.ClosedTo(f.path, f.owner.uid, f.owner.gid); len(closed) > 0 {
		return false, fmt.Errorf("%s is closed to the gate, which runs as user %s and needs %s: %s", closed[0], f.owner.name, f.path,
			cmp.Or(LetIn(f.owner.name, closed), printable.Shell("namei", "-l", f.path)+" shows how"))
	}
	return true, nil
}

// checkAbove returns an error if the directory, or one on the way to it, belongs to a user other than
// root and the owner: such a user could redirect the path.
func (f directory) checkAbove() error {
	if f.owner == nil {
		return nil
	}
	way, err := owner.Way(f.path)
	if err != nil {
		return err
	}
	for _, step := range way {
		if uid := step.UID(); uid != 0 && uid != int(f.owner.uid) {
			return fmt.Errorf("the gate's directory %s, for user %s: %s belongs to another user", f.path, f.owner.name, step.Path)
		}
	}
	return nil
}

// canBeExchanged reports whether the owner could replace a directory on the way to this one
// with a symbolic link.
func (f directory) canBeExchanged() bool {
	way, err := owner.Way(f.path)
	return err != nil || slices.ContainsFunc(way, func(s owner.Step) bool { return s.UID() == int(f.owner.uid) })
}

// make makes the directory, with mode 0700. Directories above it that root makes have mode 0755, since
// the gate's user must pass through them.
func (f directory) make(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return os.MkdirAll(f.path, 0o700)
	}

	// Where the owner can put symbolic links, the owner makes the directory: root would follow them.
	if f.owner != nil && f.canBeExchanged() {
		cmd := exec.CommandContext(ctx, "mkdir", "-p", "-m", "0700", f.path)
		untrusted.As(cmd, f.owner.uid, f.owner.gid)
		var said untrusted.Output
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("make %s: %w: %s", f.path, err, LastLine(said.Bytes()))
		}
		return nil
	}

	defer syscall.Umask(syscall.Umask(0o022))
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(f.path, 0o700); err != nil {
		return err
	}
	if f.owner == nil {
		return nil
	}
	return os.Lchown(f.path, int(f.owner.uid), int(f.owner.gid))
}
