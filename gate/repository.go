// The folder of bare repositories: one for each project.

package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"terok-gate-hook/store"
)

// repository is a bare repository of the folder.
type repository struct {
	project string
	path    string // no symbolic link in it: git compares it with safe.directory
}

var errNoRepository = errors.New("no repository")

// repository finds a project's.
func (g *Gate) repository(project string) (repository, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(g.repos, project+".git"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errNoRepository
		}
		return repository{}, err
	}
	return repository{project: project, path: path}, nil
}

// Projects returns the names of the repositories in a folder.
func Projects(repos string) ([]string, error) {
	entries, err := os.ReadDir(repos)
	if err != nil {
		return nil, fmt.Errorf("read the folder of repositories: %w", err)
	}
	var projects []string
	for _, entry := range entries {
		project, isRepository := strings.CutSuffix(entry.Name(), ".git")
		if isRepository && store.CheckName(project) == nil {
			projects = append(projects, project)
		}
	}
	return projects, nil
}
