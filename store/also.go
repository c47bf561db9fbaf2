// Defines the other projects that a token is for: their largest number, the access to each, and
// their form in the token file.

package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Also are the projects that a token is for besides its own, with the access to each:
// [AccessRead], or [AccessWrite] within the token's limits.
//
// In the token file they are the value of the key "also", in an entry or, if that is limited, in
// its "limited":
//
//	"also": {"lib": "read", "tools": "write"}
//
// A gate that does not know the key serves the token's own project alone, or refuses the
// token if it is limited.
type Also map[string]string

// MostAlso is the largest number of other projects that a token can be for.
const MostAlso = 32

// Check reports why a token must not be issued for these projects besides its own. Its errors
// quote names safely.
func (a Also) Check(own string) error {
	if len(a) > MostAlso {
		return fmt.Errorf("%d other projects: at most %d are allowed", len(a), MostAlso)
	}
	for project, access := range a {
		if err := CheckName(project); err != nil {
			return fmt.Errorf("other project %w", err)
		}
		if project == own {
			return fmt.Errorf("other project %q is the token's own", project)
		}
		if access != AccessRead && access != AccessWrite {
			return fmt.Errorf("access %.32q to other project %q is neither %s nor %s", access, project, AccessRead, AccessWrite)
		}
	}
	return nil
}

// With returns the projects that have the access given, in order.
func (a Also) With(access string) []string {
	var projects []string
	for _, project := range slices.Sorted(maps.Keys(a)) {
		if a[project] == access {
			projects = append(projects, project)
		}
	}
	return projects
}

// parseAlso reads the value of the key "also" of an entry, whose own project is own. ok is false
// if any part of the value is not understood.
func parseAlso(value json.RawMessage, own string) (also Also, ok bool) {
	if !readInto(&also, value) || also.Check(own) != nil {
		return nil, false
	}
	return also, true
}

// projectPlaceholder stands in a pattern for the project that is pushed to, where a token
// may push to several.
const projectPlaceholder = "{project}"

// In returns what the token allows in a project, if it is for that project.
func (e Entry) In(project string) (Limits, bool) {
	return limitsIn(project, e.Project, e.Limits, e.Also)
}

// In returns what the token allows in a project, if it is for that project.
func (p Pass) In(project string) (Limits, bool) {
	return limitsIn(project, p.Project, p.Limits, p.Also)
}

// limitsIn returns what a token allows in a project, given the token's own project, its limits and
// its other projects. The limits apply to all of them, so that no other project allows more than
// the token's own.
func limitsIn(project, own string, limits Limits, also Also) (Limits, bool) {
	if project != own {
		switch also[project] {
		case AccessWrite:
		case AccessRead:
			return Limits{ReadOnly: true}, true
		default:
			return Limits{}, false
		}
	}
	return limits.filled(project), true
}

// filled returns the limits with the project in place of {project} in their patterns.
func (l Limits) filled(project string) Limits {
	has := func(pattern string) bool { return strings.Contains(pattern, projectPlaceholder) }
	if !slices.ContainsFunc(l.Push, func(list []string) bool { return slices.ContainsFunc(list, has) }) {
		return l
	}

	lists := l.Push
	l.Push = make([][]string, len(lists))
	for i, list := range lists {
		l.Push[i] = slices.Clone(list)
		for j, pattern := range list {
			l.Push[i][j] = strings.ReplaceAll(pattern, projectPlaceholder, project)
		}
	}
	return l
}
