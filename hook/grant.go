// What a container asks for in its annotations, and whether it may have it.

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

// grant takes the grant from the annotations. asked is false for a container that
// has neither of the two: it is not ours. Without an error it is admitted; on one the
// grant is what was asked for, fit for a log and nothing else.
func (s Settings) grant(annotations map[string]string) (grant store.Grant, asked bool, err error) {
	projectName, taskName := s.projectAnnotation(), s.taskAnnotation()
	project, hasProject := annotations[projectName]
	task, hasTask := annotations[taskName]
	if !hasProject && !hasTask {
		return grant, false, nil
	}
	grant = store.Grant{Project: project, Task: task}
	if !hasTask {
		return grant, true, fmt.Errorf("%w: annotation %s is there, %s is not: set both or neither", ErrRefused, projectName, taskName)
	}
	if !hasProject {
		return grant, true, fmt.Errorf("%w: annotation %s is there, %s is not: set both or neither", ErrRefused, taskName, projectName)
	}
	if err := store.ValidName(project); err != nil {
		return grant, true, fmt.Errorf("%w: annotation %s: %w", ErrRefused, projectName, err)
	}
	if err := store.ValidName(task); err != nil {
		return grant, true, fmt.Errorf("%w: annotation %s: %w", ErrRefused, taskName, err)
	}
	if !s.Admits(project) {
		return grant, true, fmt.Errorf("%w: project %q is not among those that this hook's --allow-project admits", ErrRefused, project)
	}
	return grant, true, nil
}

// Admits tells whether a pattern admits the project.
func (s Settings) Admits(project string) bool {
	return len(s.AllowProjects) == 0 || slices.ContainsFunc(s.AllowProjects, func(pattern string) bool {
		ok, _ := path.Match(pattern, project)
		return ok
	})
}

// fileMode is the mode of the files in the container: the annotation's, else ours.
func (s Settings) fileMode(annotations map[string]string) (fs.FileMode, error) {
	value, ok := annotations[EnvModeAnnotation]
	if !ok {
		return parseEnvMode(s.envMode())
	}
	mode, err := parseEnvMode(value)
	if err != nil {
		return 0, fmt.Errorf("%w: annotation %s: %.32q: %w", ErrRefused, EnvModeAnnotation, value, err)
	}
	return mode, nil
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
