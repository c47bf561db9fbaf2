// Defines the projects that a token is for besides its own: their largest number, the access to
// each, and their form in the token file.

package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Also are the projects that a token is for besides its own, each with the access to it:
// [AccessRead], or [AccessWrite] within the token's limits.
//
// In the token file, they are the value of the key "also". An unlimited entry has that key itself;
// a limited entry has it in the value of "limited":
//
//	"also": {"lib": "read", "tools": "write"}
//
// A gate that does not know the key serves only the token's own project. If the token is limited,
// such a gate refuses the token.
type Also map[string]string

// MostAlso is the largest number of other projects that a token can be for.
const MostAlso = 32

// Check returns an error if a token of ownProject must not be issued for these other projects. Its
// errors quote names safely.
func (a Also) Check(ownProject string) error {
	if len(a) > MostAlso {
		return fmt.Errorf("%d other projects: at most %d are allowed", len(a), MostAlso)
	}
	for project, access := range a {
		if err := CheckName(project); err != nil {
			return fmt.Errorf("other project %w", err)
		}
		if project == ownProject {
			return fmt.Errorf("other project %q is the token's own", project)
		}
		if access != AccessRead && access != AccessWrite {
			return fmt.Errorf("access %.32q to other project %q is neither %s nor %s", access, project, AccessRead, AccessWrite)
		}
	}
	return nil
}

// With returns the projects with this access, in order.
func (a Also) With(access string) []string {
	var projects []string
	for _, project := range slices.Sorted(maps.Keys(a)) {
		if a[project] == access {
			projects = append(projects, project)
		}
	}
	return projects
}

// parseAlso parses the value of the key "also" in an entry of ownProject. ok is false if any part
// of the value is not understood.
func parseAlso(value json.RawMessage, ownProject string) (also Also, ok bool) {
	if !readInto(&also, value) || also.Check(ownProject) != nil {
		return nil, false
	}
	return also, true
}

// projectPlaceholder, in a pattern, stands for the project that is pushed to: a token may push to
// several.
const projectPlaceholder = "{project}"

// In returns what the entry's token allows in a project, and false if the token is not for that
// project.
func (e Entry) In(project string) (Limits, bool) {
	return limitsIn(project, e.Project, e.Limits, e.Also)
}

// In returns what the token allows in a project, and false if the token is not for that project.
func (p Pass) In(project string) (Limits, bool) {
	return limitsIn(project, p.Project, p.Limits, p.Also)
}

// limitsIn returns what a token of ownProject allows in a project, and false if the token is not
// for that project. The token's limits apply in all its projects, so that no other project allows
// more than the token's own project.
func limitsIn(project, ownProject string, limits Limits, also Also) (Limits, bool) {
	if project != ownProject {
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
