// What a container asks for in its annotations, and whether it may have that.

package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"

	"terok-gate-hook/store"
)

// request is what a container asks for.
type request struct {
	store.Grant
	mode fs.FileMode // of the files that it gets
}

// request reads the annotations. asked is false for a container that has neither
// project nor task: it is not ours. Without an error all of it is admitted; on one
// the grant is what was asked for, fit for a log and nothing else.
func (s Settings) request(annotations map[string]string) (want request, asked bool, err error) {
	projectName, taskName := s.projectAnnotation(), s.taskAnnotation()
	project, hasProject := annotations[projectName]
	task, hasTask := annotations[taskName]
	if !hasProject && !hasTask {
		return want, false, nil
	}
	want.Grant = store.Grant{Project: project, Task: task}
	if !hasTask {
		return want, true, fmt.Errorf("%w: annotation %s is there, %s is not: set both or neither", ErrRefused, projectName, taskName)
	}
	if !hasProject {
		return want, true, fmt.Errorf("%w: annotation %s is there, %s is not: set both or neither", ErrRefused, taskName, projectName)
	}
	if err := store.CheckName(project); err != nil {
		return want, true, fmt.Errorf("%w: annotation %s: %w", ErrRefused, projectName, err)
	}
	if err := store.CheckName(task); err != nil {
		return want, true, fmt.Errorf("%w: annotation %s: %w", ErrRefused, taskName, err)
	}
	if !s.Admits(project) {
		return want, true, fmt.Errorf("%w: project %q is not among those that this hook's --allow-project admits", ErrRefused, project)
	}
	mode := s.envMode()
	if asked, ok := annotations[EnvModeAnnotation]; ok {
		mode = asked
	}
	if want.mode, err = parseEnvMode(mode); err != nil {
		return want, true, fmt.Errorf("%w: annotation %s: %.32q: %w", ErrRefused, EnvModeAnnotation, mode, err)
	}
	return want, true, nil
}

// Admits tells whether a pattern admits the project.
func (s Settings) Admits(project string) bool {
	return len(s.AllowProjects) == 0 || slices.ContainsFunc(s.AllowProjects, func(pattern string) bool {
		ok, _ := path.Match(pattern, project)
		return ok
	})
}

// parseEnvMode reads a mode for the files in the container.
func parseEnvMode(s string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err == nil {
		switch mode := fs.FileMode(mode); mode {
		case 0o400, 0o440, 0o444:
			return mode, nil
		}
	}
	return 0, errors.New("use 0400, 0440 or 0444")
}
