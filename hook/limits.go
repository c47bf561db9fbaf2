// Limits a token by the operator's settings, and further by the container's annotations.

package hook

import (
	"cmp"
	"fmt"
	"strings"

	"terok-gate-hook/store"
)

// accesses are the values of [Settings.Access], from the narrowest to the widest.
var accesses = []string{store.AccessRead, store.AccessAppend, store.AccessWrite}

const useAccess = "use " + store.AccessRead + " or " + store.AccessAppend

const usePatterns = "use full ref names such as refs/heads/agent/*, at most 16, with commas between them"

// limits returns the limits of the settings and of the annotations together: a container can narrow
// its own rights, never widen them. The limits apply to each project that the container may write. If
// there are several, {project} stays in the patterns, and the gate fills in the project of each push.
func (s Settings) limits(annotations map[string]string, grant store.Grant, also store.Also) (limits store.Limits, err error) {
	if len(also.With(store.AccessWrite)) > 0 {
		grant.Project = "{project}"
	}

	access := cmp.Or(s.Access, store.AccessWrite)
	if narrowed, ok := annotations[AccessAnnotation]; ok {
		if narrowed != store.AccessRead && narrowed != store.AccessAppend {
			return limits, because("annotation "+AccessAnnotation, instead(useAccess, fmt.Errorf("%.32q is refused: %s", narrowed, useAccess)))
		}
		if access != store.AccessRead {
			access = narrowed
		}
	}
	limits.ReadOnly, limits.AppendOnly = access == store.AccessRead, access == store.AccessAppend

	if len(s.Push) > 0 {
		limits.Push = append(limits.Push, fill(s.Push, grant))
	}
	if push, ok := annotations[PushAnnotation]; ok {
		limits.Push = append(limits.Push, fill(strings.Split(push, ","), grant))
	}

	// The settings were checked before, so an error is about the annotation.
	if err := limits.Check(); err != nil {
		return limits, because("annotation "+PushAnnotation, instead(usePatterns, err))
	}
	return limits, nil
}

// checkPush checks the settings' patterns, filled with the longest names that there can be.
func (s Settings) checkPush() error {
	longest := strings.Repeat("n", store.LongestName)
	filled := fill(s.Push, store.Grant{Project: longest, Task: longest})
	for i, pattern := range filled {
		if err := store.CheckPattern(pattern); err != nil {
			return &SettingError{"push", s.Push[i], err}
		}
	}
	if len(filled) > store.MostPatterns {
		return &SettingError{"push", s.Push[store.MostPatterns], fmt.Errorf("at most %d patterns are allowed", store.MostPatterns)}
	}
	return nil
}

// fill returns the patterns with the grant's names in place of {project} and {task}.
func fill(patterns []string, grant store.Grant) (filled []string) {
	names := strings.NewReplacer("{project}", grant.Project, "{task}", grant.Task)
	for _, pattern := range patterns {
		filled = append(filled, names.Replace(pattern))
	}
	return filled
}
