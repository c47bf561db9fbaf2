// What a token can be limited to, and how the token file says so.

package store

import (
	"encoding/json"
	"strings"
)

// Limits narrow what a token allows. The zero value is no limit.
//
// A limited entry has neither project nor scope of its own, so that a gate that knows
// nothing of limits does not take it for an unlimited one:
//
//	"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}
type Limits struct {
	ReadOnly bool
	// Push are lists of patterns. A push is to refs that match one pattern of each
	// list; without lists, to any.
	Push [][]string
}

// MayPush tells whether a push to the ref, by its full name, is within the limits.
func (l Limits) MayPush(ref string) bool {
	if l.ReadOnly {
		return false
	}
	for _, list := range l.Push {
		if !matchesOne(list, ref) {
			return false
		}
	}
	return true
}

func matchesOne(patterns []string, ref string) bool {
	for _, pattern := range patterns {
		if matchRef(pattern, ref) {
			return true
		}
	}
	return false
}

// matchRef tells whether the pattern, a full ref name, stands for the ref: "*" for one
// part between slashes, a last "**" for everything below.
func matchRef(pattern, ref string) bool {
	for {
		if pattern == "**" {
			return ref != ""
		}
		part, patternRest, patternGoesOn := strings.Cut(pattern, "/")
		name, refRest, refGoesOn := strings.Cut(ref, "/")
		if name == "" || part != "*" && part != name || patternGoesOn != refGoesOn {
			return false
		}
		if !patternGoesOn {
			return true
		}
		pattern, ref = patternRest, refRest
	}
}

// parseLimited reads the limits of an entry. What is not understood to the last key
// might be a limit: the entry then counts for nothing.
func parseLimited(value json.RawMessage) (project string, limits Limits, ok bool) {
	keys, ok := valuesOf(value)
	if !ok || !readInto(&project, keys["project"]) {
		return "", Limits{}, false
	}
	var access string
	if !readInto(&access, keys["access"]) || access != "read" && access != "write" {
		return "", Limits{}, false
	}
	limits.ReadOnly = access == "read"
	known := 2
	if push, there := keys["push"]; there {
		if !readInto(&limits.Push, push) {
			return "", Limits{}, false
		}
		known++
	}
	return project, limits, len(keys) == known
}

// readInto reads a JSON value, if it is there, not null, and of the right type.
func readInto(value any, text json.RawMessage) bool {
	return len(text) > 0 && string(text) != "null" && json.Unmarshal(text, value) == nil
}
