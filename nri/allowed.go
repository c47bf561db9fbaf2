// Decides which projects the pods of a namespace may name.

package main

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"terok-gate-hook/store"
)

// allowed holds, for each namespace, the patterns (path.Match) of the projects that its pods may
// name. If it lacks a namespace, the pods of that namespace may name no project.
type allowed map[string][]string

// Set adds the patterns in a value of the flag --allow.
func (a allowed) Set(value string) error {
	fields := strings.Fields(value)
	if len(fields) == 0 {
		return fmt.Errorf("names no NAMESPACE=PATTERN")
	}
	for _, field := range fields {
		namespace, pattern, is := strings.Cut(field, "=")
		if !is || namespace == "" || pattern == "" {
			return fmt.Errorf("%q is not of the form NAMESPACE=PATTERN", field)
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("%q: %w", field, err)
		}
		a[namespace] = append(a[namespace], pattern)
	}
	return nil
}

func (a allowed) String() string {
	var all []string
	for _, namespace := range slices.Sorted(maps.Keys(a)) {
		for _, pattern := range a[namespace] {
			all = append(all, namespace+"="+pattern)
		}
	}
	return strings.Join(all, " ")
}

// check returns an error for the first project that the pods of the namespace may not name.
func (a allowed) check(namespace string, projects []string) error {
	for _, project := range projects {
		if !store.MatchesOne(a[namespace], project) {
			return fmt.Errorf("pods of namespace %q may not name project %q: terok-nri needs --allow %s=%s", namespace, project, namespace, project)
		}
	}
	return nil
}
