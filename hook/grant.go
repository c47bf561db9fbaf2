// Reads a container's request from its annotations, and decides whether to admit it.

package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"terok-gate-hook/store"
)

// errNotAdmitted is wrapped by a refusal because of [Settings.AllowProjects].
var errNotAdmitted = errors.New("not among those that are admitted")

// request is what a container asks for.
type request struct {
	store.Grant
	store.Limits
	store.Also
	services []Service
	mode     fs.FileMode // for its files that hold a secret

	addresses map[string]address // those that its projects have at forges: git uses the gate's instead
}

// request reads the annotations. asked is false if they have neither project nor task: the
// container then wants no token. Without an error, everything that is asked for is
// admitted. With an error, the grant says what was asked for, and is for the log only.
func (s Settings) request(annotations map[string]string) (want request, asked bool, err error) {
	project, hasProject := annotations[ProjectAnnotation]
	task, hasTask := annotations[TaskAnnotation]
	want.Grant = store.Grant{Project: project, Task: task}
	if err := checkKnown(annotations); err != nil {
		return want, true, err
	}
	if !hasProject && !hasTask {
		return want, false, nil
	}

	if !hasTask || !hasProject {
		there, missing := text(ProjectAnnotation), text(TaskAnnotation)
		if hasTask {
			there, missing = missing, there
		}
		return want, true, refused(failure("annotation " + there + " is there, " + missing + " is not: set both or neither"))
	}

	if err := checkName(ProjectAnnotation, project); err != nil {
		return want, true, refused(err)
	}
	if err := checkName(TaskAnnotation, task); err != nil {
		return want, true, refused(err)
	}
	if err := s.checkAdmitted(project); err != nil {
		return want, true, refused(err)
	}

	if want.Also, err = s.also(annotations, project); err != nil {
		return want, true, refused(err)
	}
	if want.Limits, err = s.limits(annotations, want.Grant, want.Also); err != nil {
		return want, true, refused(err)
	}
	if err := checkWritable(want.Also, want.Limits); err != nil {
		return want, true, refused(err)
	}

	if want.services, err = s.services(annotations, project); err != nil {
		return want, true, refused(err)
	}

	mode := s.envMode()
	if asked, ok := annotations[EnvModeAnnotation]; ok {
		mode = asked
	}
	if want.mode, err = parseEnvMode(mode); err != nil {
		return want, true, refused(because("annotation "+EnvModeAnnotation, instead(envModes, fmt.Errorf("%.32q: %w", mode, err))))
	}
	return want, true, nil
}

// IsOurs reports whether the annotation has a name of the form terok.NAME, known or not.
// Deeper names, such as terok.sandbox.sidecar, belong to other programs.
func IsOurs(annotation string) bool {
	name, is := strings.CutPrefix(annotation, "terok.")
	return is && !strings.Contains(name, ".")
}

// checkKnown refuses an unknown annotation terok.NAME: it could be a misspelled limit.
func checkKnown(annotations map[string]string) error {
	known := []string{ProjectAnnotation, TaskAnnotation, EnvModeAnnotation, AccessAnnotation, PushAnnotation, ReadAnnotation, WriteAnnotation, ServicesAnnotation}
	for annotation := range annotations {
		if IsOurs(annotation) && !slices.Contains(known, annotation) {
			use := " is not known: use one of " + strings.Join(known, ", ")
			return refused(instead("an annotation terok.NAME"+text(use), fmt.Errorf("annotation %.128q%s", annotation, use)))
		}
	}
	return nil
}

// checkName checks the project or the task that the annotation holds.
func checkName(annotation, value string) error {
	err := store.CheckName(value)
	if err == nil {
		return nil
	}
	const use = "use letters, digits, '.', '_' and '-', a letter or digit first, at most 128"
	return because("annotation "+text(annotation), instead(use, err))
}

// Admits reports whether the project matches a pattern, or there are no patterns.
func (s Settings) Admits(project string) bool {
	return len(s.AllowProjects) == 0 || store.MatchesOne(s.AllowProjects, project)
}

// AdmitsReading reports whether containers of other projects may read the project.
func (s Settings) AdmitsReading(project string) bool {
	return s.Admits(project) || store.MatchesOne(s.AllowReads, project)
}

// checkAdmitted refuses a project that is not admitted.
func (s Settings) checkAdmitted(project string) error {
	if s.Admits(project) {
		return nil
	}
	return instead("the project is not among those that are admitted", fmt.Errorf("project %q is %w", project, errNotAdmitted))
}

const envModes = "use 0400, 0440 or 0444"

// parseEnvMode reads a mode for the files in the container.
func parseEnvMode(s string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err == nil {
		switch mode := fs.FileMode(mode); mode {
		case 0o400, 0o440, 0o444:
			return mode, nil
		}
	}
	return 0, errors.New(envModes)
}
