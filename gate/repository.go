// Finds and lists the repositories, one for each project, and writes their refs through to the
// disk.

package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
)

// repository is the bare repository of a project.
type repository struct {
	project string
	path    string // without symbolic links: git compares it with safe.directory
}

var errNoRepository = errors.New("no repository")

// findRepository finds a project's repository.
func findRepository(repos, project string) (repository, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(repos, project+".git"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errNoRepository
		}
		return repository{}, err
	}
	return repository{project: project, path: path}, nil
}

// sync makes moved refs survive a power cut. git syncs their files, but not the directories in
// which it renames the files (git 2.55, core.fsync).
func (repo repository) sync(refs moves) error {
	const most = 64 // syncing the whole file system is as fast as syncing more directories
	sync := unix.Fsync
	dirs := map[string]bool{repo.path: true} // the directory of packed-refs
	for m := range refs.all() {
		if len(dirs) > most {
			sync, dirs = unix.Syncfs, map[string]bool{repo.path: true}
			break
		}
		dirs[filepath.Join(repo.path, filepath.Dir(m.ref))] = true
	}

	for dir := range dirs {
		if err := syncDir(dir, sync); err != nil {
			return fmt.Errorf("sync the refs of %s: %w", repo.project, err)
		}
	}
	return nil
}

// syncDir syncs a directory. If git has removed it with its last ref, syncDir syncs the nearest
// directory above it.
func syncDir(dir string, sync func(fd int) error) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return syncDir(filepath.Dir(dir), sync)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return sync(int(d.Fd()))
}

// Projects returns the names of the repositories in a directory.
func Projects(repos string) ([]string, error) {
	projects, err := control.Projects(repos)
	if err != nil {
		return nil, fmt.Errorf("read the directory of repositories: %w", err)
	}
	return projects, nil
}
