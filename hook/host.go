// Injects into a directory of the host: for a state without a process, as when the hook is
// tried by hand, and for settings with an env dir.

package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"terok-gate-hook/store"
)

// ErrNoEnvDir is in the chain of the error that says that nobody named a directory for
// env files, and that there is no default.
var ErrNoEnvDir = errors.New("there is no directory for env files: XDG_RUNTIME_DIR is not set")

// hostDir returns the directory for env files on the host.
func (s Settings) hostDir() (string, error) {
	if s.EnvDir != "" {
		return s.EnvDir, nil
	}
	// Uid 0 of a rootless engine's user namespace is not root.
	inside, err := store.InUserNamespace()
	if err != nil {
		return "", err
	}
	root := os.Geteuid() == 0 && !inside
	// After su, XDG_RUNTIME_DIR can be another user's, who may have put a link there.
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && (!root || isRoots(dir)) {
		return filepath.Join(dir, "terok"), nil
	}
	if root {
		return "/run/terok", nil // /run/terok-gate is the gate's user's
	}
	return "", instead(text(ErrNoEnvDir.Error()), ErrNoEnvDir)
}

// isRoots reports whether only root can put something in the place of the directory,
// or make it if it is not there. It is stricter than owner.Way, which the hook does not
// link: it refuses every symbolic link, and looks above directories that are missing.
func isRoots(dir string) bool {
	// In a sticky directory such as /tmp, what root owns stays in place, but anybody may
	// make what is not there yet.
	keeps := fs.FileMode(0)
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != 0 ||
			info.Mode()&0o022 != 0 && info.Mode()&keeps == 0 {
			return false
		}
		keeps = fs.ModeSticky
		if dir == "/" {
			return true
		}
	}
}

// injectOnHost writes the env file, mode 0600, and returns its path. The id is
// checked, so the name stays in the directory; nothing that stands under it, a
// symbolic link say, is written through.
func (s Settings) injectOnHost(id string, content []byte) (path string, err error) {
	dir, err := s.hostDir()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, id+".env")
	defer func() {
		if err != nil { // it may be printed: the path is of our making
			path, err = "", instead(text(path)+": "+reason(err), err)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}

	env, err := s.createOnHost(id, path)
	if err != nil {
		return "", err
	}
	_, err = env.Write(content)
	if err := errors.Join(err, env.Close()); err != nil {
		os.Remove(path)
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, nil
}

// createOnHost creates the env file anew. Another run of the hook for the same container
// may create one between the removal and the creation; the last one stays.
func (s Settings) createOnHost(id, path string) (*os.File, error) {
	for {
		if err := s.removeFromHost(id); err != nil {
			return nil, err
		}
		env, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return env, err
		}
	}
}

// removeFromHost removes what injectOnHost wrote, if it did.
func (s Settings) removeFromHost(id string) error {
	dir, err := s.hostDir()
	if err != nil {
		return nil // no directory, no file
	}
	err = os.Remove(filepath.Join(dir, id+".env"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
