// What a container asks for in its annotations, and whether it may have it.

package hook

import (
	"cmp"
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
func (h Hook) grant(annotations map[string]string) (grant store.Grant, asked bool, err error) {
	projectName, taskName := h.projectAnnotation(), h.taskAnnotation()
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
	if err := store.CheckName(project); err != nil {
		return grant, true, fmt.Errorf("%w: annotation %s: %w", ErrRefused, projectName, err)
	}
	if err := store.CheckName(task); err != nil {
		return grant, true, fmt.Errorf("%w: annotation %s: %w", ErrRefused, taskName, err)
	}
	if !h.Admits(project) {
		return grant, true, fmt.Errorf("%w: project %q is not among those that this hook's --allow-project admits", ErrRefused, project)
	}
	return grant, true, nil
}

func (h Hook) projectAnnotation() string { return cmp.Or(h.ProjectAnnotation, ProjectAnnotation) }

func (h Hook) taskAnnotation() string { return cmp.Or(h.TaskAnnotation, TaskAnnotation) }

// Admits tells whether a pattern admits the project.
func (h Hook) Admits(project string) bool {
	return len(h.AllowProjects) == 0 || slices.ContainsFunc(h.AllowProjects, func(pattern string) bool {
		ok, _ := path.Match(pattern, project)
		return ok
	})
}

// envMode is the mode of the files in the container: the annotation's, else the
// hook's, else the default.
func (h Hook) envMode(annotations map[string]string) (fs.FileMode, error) {
	value, ok := annotations[EnvModeAnnotation]
	if !ok {
		return cmp.Or(h.EnvMode, EnvMode), nil
	}
	mode, err := ParseEnvMode(value)
	if err != nil {
		return 0, fmt.Errorf("%w: annotation %s: %w", ErrRefused, EnvModeAnnotation, err)
	}
	return mode, nil
}

// ParseEnvMode reads a mode for the files in the container: 0400, 0440 or 0444.
func ParseEnvMode(s string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || checkEnvMode(fs.FileMode(mode)) != nil {
		return 0, fmt.Errorf("%.32q is refused: use 0400, 0440 or 0444", s)
	}
	return fs.FileMode(mode), nil
}

func checkEnvMode(mode fs.FileMode) error {
	switch mode {
	case 0o400, 0o440, 0o444:
		return nil
	}
	return fmt.Errorf("use 0400, 0440 or 0444")
}
