// Reads which projects a container asks for besides its own, and decides whether to admit them.
// store/also.go sets how many a container may name.

package hook

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"terok-gate-hook/store"
)

// errNotReadable is wrapped by a refusal because of [Settings.AllowReads].
var errNotReadable = errors.New("not among those that are admitted for reading")

// also returns the projects that the annotations ask for besides the container's own.
func (s Settings) also(annotations map[string]string, own string) (store.Also, error) {
	var also store.Also
	for _, kind := range []struct {
		annotation, access string
		admitted           func(project string) error
	}{
		{ReadAnnotation, store.AccessRead, s.checkReadable},
		{WriteAnnotation, store.AccessWrite, s.checkAdmitted},
	} {
		for project := range strings.FieldsFuncSeq(annotations[kind.annotation], isBetweenNames) {
			if err := checkName(kind.annotation, project); err != nil {
				return nil, err
			}
			if err := checkAnother(project, own, also); err != nil {
				return nil, because("annotation "+text(kind.annotation), err)
			}
			if err := kind.admitted(project); err != nil {
				return nil, because("annotation "+text(kind.annotation), err)
			}
			if also == nil {
				also = store.Also{}
			}
			also[project] = kind.access
		}
	}
	return also, nil
}

// isBetweenNames reports whether c separates names. Spaces do so as well as commas, since podman before
// 5.0 splits --annotation at commas.
func isBetweenNames(c rune) bool { return c == ',' || c == ' ' }

// checkAnother refuses the container's own project, a project that is named twice, and a project too many.
func checkAnother(project, own string, also store.Also) error {
	if project == own {
		return instead("names the container's own project, which is in terok.project",
			fmt.Errorf("project %q is the container's own, which is in %s", project, ProjectAnnotation))
	}
	if _, twice := also[project]; twice {
		const once = "name each once, in terok.read or in terok.write"
		return instead("names a project twice: "+once, fmt.Errorf("project %q is named twice: %s", project, once))
	}
	if len(also) == store.MostAlso {
		return failure("names more projects than a container can have besides its own: at most " + text(strconv.Itoa(store.MostAlso)))
	}
	return nil
}

// checkReadable refuses a project that the container may not even read.
func (s Settings) checkReadable(project string) error {
	if s.AdmitsReading(project) {
		return nil
	}
	return instead("a project is not among those that are admitted for reading", fmt.Errorf("project %q is %w", project, errNotReadable))
}

// checkWritable refuses write access to other projects if the container may only read.
func checkWritable(also store.Also, limits store.Limits) error {
	if !limits.ReadOnly || len(also.With(store.AccessWrite)) == 0 {
		return nil
	}
	return failure("annotation " + WriteAnnotation + ": the container's access is " + store.AccessRead + ": use " + ReadAnnotation)
}
