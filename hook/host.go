// Writes the env file to a directory of the host, if the settings have an env dir, or if the
// container's state names no process, as when the hook is tried by hand.

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

// errNoEnvDir is wrapped by an error that says that no directory for env files was given, and that
// there is no default.
var errNoEnvDir = errors.New("no directory for env files: XDG_RUNTIME_DIR is not set")

// hostDir returns the directory for env files on the host.
func (s Settings) hostDir() (string, error) {
	if s.EnvDir != "" {
		return s.EnvDir, nil
	}

	// In the user namespace of a rootless engine, uid 0 is not root.
	inside, err := store.InUserNamespace()
	if err != nil {
		return "", err
	}
	root := os.Geteuid() == 0 && !inside

	// After su, XDG_RUNTIME_DIR can belong to another user, who may have put a link there.
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && (!root || isRoots(dir)) {
		return filepath.Join(dir, "terok"), nil
	}
	if root {
		return "/run/terok", nil // /run/terok-gate belongs to the gate's user
	}
	return "", instead(text(errNoEnvDir.Error()), errNoEnvDir)
}

// isRoots reports whether only root can replace the directory, or create it if it does not exist. It
// is false if any part of the path is a symbolic link. (owner.Way allows links, but package owner is not
// compiled into the hook.)
func isRoots(dir string) bool {
	// In a sticky directory such as /tmp, others cannot replace root's files, but they can
	// create a file that does not exist yet.
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

// injectOnHost writes the env file, mode 0600, and returns its path. The id was checked, so
// the path stays in the directory. An existing file or symbolic link at the path
// is replaced, not written to.
func (s Settings) injectOnHost(id string, content []byte) (path string, err error) {
	dir, err := s.hostDir()
	if err != nil {
		return "", err
	}

	path = filepath.Join(dir, id+".env")
	defer func() {
		if err != nil { // a path of our making, which may be printed
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

// createOnHost replaces the env file with an empty one. If another run of the hook for the
// same container creates it in between, createOnHost starts again: the file of the last run stays.
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

// removeFromHost removes the env file, if there is one.
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
