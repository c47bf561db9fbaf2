// Folders that are the gate's own.

package podman

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/untrusted"
)

// folder is one that is the gate's own.
type folder struct {
	path  string
	owner *account // nil: this user
}

// isThere tells whether the folder is there, and refuses one that is not its owner's, or
// that others could have in their hands.
func (f folder) isThere() (bool, error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, f.checkAbove()
	}
	switch {
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, fmt.Errorf("%s is no folder", f.path)
	case f.owner != nil && info.Sys().(*syscall.Stat_t).Uid != f.owner.uid:
		return false, fmt.Errorf("%s is not the gate's, which runs as user %s: %s", f.path, f.owner.name,
			printable.Shell("chown", "-R", "-h", f.owner.name, f.path))
	}
	return true, nil
}

// checkAbove refuses to make a folder below one of somebody else's, who could have it
// made anywhere.
func (f folder) checkAbove() error {
	if f.owner == nil {
		return nil
	}
	above, owner := f.existing()
	if owner != 0 && owner != f.owner.uid {
		return fmt.Errorf("make %s for user %s: %s is somebody else's", f.path, f.owner.name, above)
	}
	return nil
}

// existing is the nearest folder above that is there and not root's, and its owner: 0 if
// all are root's. What is in it, he can have exchanged.
func (f folder) existing() (above string, owner uint32) {
	for above = filepath.Dir(f.path); above != "/"; above = filepath.Dir(above) {
		if info, err := os.Stat(above); err == nil {
			if owner = info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
				break
			}
		}
	}
	return above, owner
}

// make makes the folder, with mode 0700. Folders above it that are missing are for
// everybody to pass, where it is for another user.
func (f folder) make(ctx context.Context) error {
	if f.owner == nil {
		return os.MkdirAll(f.path, 0o700)
	}
	// Where the owner can put links, root makes and gives away nothing.
	if _, owner := f.existing(); owner == f.owner.uid {
		cmd := exec.CommandContext(ctx, "mkdir", "-p", "-m", "0700", f.path)
		untrusted.As(cmd, f.owner.uid, f.owner.gid)
		var said untrusted.Output
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("make %s: %w: %s", f.path, err, LastLine(said.Bytes()))
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(f.path, 0o700); err != nil {
		return err
	}
	return os.Lchown(f.path, int(f.owner.uid), int(f.owner.gid))
}
