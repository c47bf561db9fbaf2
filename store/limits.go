// Defines the limits of a token, checks refs against them, and parses their form in the token file.

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits narrow what a token allows. The zero value is that of a token without limits.
//
// A limited entry has no key "project" or "scope" beside "limited": a gate that does not know
// limits must not take it for an unlimited entry.
//
//	"limited": {"project": "demo", "access": "write", "push": [["refs/heads/agent/**"]]}
//
// The access is one of [AccessRead], [AccessAppend] and [AccessWrite]. The key "also" can follow
// ([Also]).
type Limits struct {
	ReadOnly bool
	// AppendOnly refuses pushes that delete a ref, or move it so that its old object is lost.
	AppendOnly bool
	// Push are lists of patterns. A ref may be pushed to if it matches at least one pattern of each
	// list. Without lists, branches, tags and notes may be pushed to. In a token's entry, {project}
	// in a pattern stands for the project that is pushed to ([Entry.In]).
	Push [][]string
}

// The values of access, each of which allows more than the one before.
const (
	AccessRead   = "read"   // fetch
	AccessAppend = "append" // push as well, but neither delete nor force
	AccessWrite  = "write"
)

// limitedJSON is the value of the key "limited" in the file.
type limitedJSON struct {
	Project string     `json:"project"`
	Access  string     `json:"access"`
	Push    [][]string `json:"push,omitempty"`
	Also    Also       `json:"also,omitempty"`
}

func (l Limits) of(project string, also Also) *limitedJSON {
	return &limitedJSON{project, l.Access(), l.Push, also}
}

// Limited reports whether there is any limit.
func (l Limits) Limited() bool { return l.Access() != AccessWrite || len(l.Push) > 0 }

// Access returns [AccessRead], [AccessAppend] or [AccessWrite].
func (l Limits) Access() string {
	switch {
	case l.ReadOnly:
		return AccessRead
	case l.AppendOnly:
		return AccessAppend
	}
	return AccessWrite
}

// SetAccess sets the access. It returns false if the access is not valid.
func (l *Limits) SetAccess(access string) bool {
	l.ReadOnly, l.AppendOnly = access == AccessRead, access == AccessAppend
	return l.Access() == access
}

// Pushes describes in words the refs that may be pushed to.
func (l Limits) Pushes() string {
	lists := l.lists()
	if l.ReadOnly || slices.ContainsFunc(lists, func(list []string) bool { return len(list) == 0 }) {
		return "nothing"
	}
	if len(lists) == 1 {
		return strings.Join(lists[0], ", ")
	}

	var texts []string
	for _, list := range lists {
		text := strings.Join(list, " or ")
		if len(list) > 1 {
			text = "(" + text + ")"
		}
		texts = append(texts, text)
	}
	if len(texts) == 2 {
		return "refs that match both " + texts[0] + " and " + texts[1]
	}
	return "refs that match each of " + strings.Join(texts, ", ")
}

// MostPatterns is the largest number of patterns in a list.
const MostPatterns = 16

// Check returns an error if the limits must not be issued. A container's annotations can choose a
// list, so it must be short, and in the form that canonical.go reads fast.
func (l Limits) Check() error {
	for _, list := range l.Push {
		switch {
		case len(list) == 0:
			return errors.New("a list of patterns is empty")
		case len(list) > MostPatterns:
			return fmt.Errorf("a list has %d patterns: at most %d are allowed", len(list), MostPatterns)
		}
		for _, pattern := range list {
			if err := CheckPattern(pattern); err != nil {
				return fmt.Errorf("pattern %.32q is refused: %w", pattern, err)
			}
		}
	}
	return nil
}

// CheckPattern returns an error if a pattern must not be issued. Its errors do not repeat the
// pattern.
func CheckPattern(pattern string) error {
	const longest = 400
	if len(pattern) > longest {
		return fmt.Errorf("longer than %d bytes", longest)
	}

	parts := strings.Split(strings.ReplaceAll(pattern, projectPlaceholder, "project"), "/")
	if parts[0] != "refs" || len(parts) == 1 {
		return errors.New("not a full ref name, such as refs/heads/agent/*")
	}
	for i, part := range parts {
		switch {
		case part == "*", part == "**" && i == len(parts)-1:
		case part == "":
			return errors.New("a part between slashes is empty")
		case strings.Contains(part, "*"):
			return errors.New("* stands for a whole part, ** for all below the last slash")
		case strings.ContainsFunc(part, func(c rune) bool { return !isPlain(c) && !strings.ContainsRune("._-+@=#", c) }):
			return errors.New("use letters, digits and . _ - + @ = #")
		}
	}
	return nil
}

// isPlain reports whether c is a letter or digit of ASCII.
func isPlain(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// anyRef is the list that applies to limits without lists: the namespaces in which git users share
// refs.
var anyRef = []string{"refs/heads/**", "refs/tags/**", "refs/notes/**"}

// neverPushed are refs that no list can allow. If a replacement (git-replace(1)) were pushed,
// readers of the repository would see other content than the branch has. The refs below refs/terok
// are terok-gate's own.
var neverPushed = []string{"refs/replace/**", "refs/terok/**"}

// MayPush reports whether the limits allow pushes to the ref with this full name.
func (l Limits) MayPush(ref string) bool {
	if l.ReadOnly || matchesOne(neverPushed, ref) {
		return false
	}
	for _, list := range l.lists() {
		if !matchesOne(list, ref) {
			return false
		}
	}
	return true
}

func (l Limits) lists() [][]string {
	if len(l.Push) == 0 {
		return [][]string{anyRef}
	}
	return l.Push
}

func matchesOne(patterns []string, ref string) bool {
	for _, pattern := range patterns {
		if matchRef(pattern, ref) {
			return true
		}
	}
	return false
}

// matchRef reports whether the ref, by its full name, matches the pattern. "*" stands for one part
// between slashes, and "**" at the end for one or more parts.
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

// parseLimited parses the value of the key "limited". ok is false if any key in it is not
// understood, since that key might be a limit. In that case, the entry does not count.
func parseLimited(value json.RawMessage) (project string, limits Limits, also Also, ok bool) {
	s := canonicalScanner{text: value}
	if parsed := (limitedJSON{}); s.limited(&parsed) && s.at == len(value) {
		limits.Push = parsed.Push
		return parsed.Project, limits, parsed.Also, limits.SetAccess(parsed.Access)
	}

	keys, ok := valuesOf(value)
	if !ok || !readInto(&project, keys["project"]) {
		return "", Limits{}, nil, false
	}
	var access string
	if !readInto(&access, keys["access"]) || !limits.SetAccess(access) {
		return "", Limits{}, nil, false
	}

	known := 2
	if push, there := keys["push"]; there {
		if !readInto(&limits.Push, push) {
			return "", Limits{}, nil, false
		}
		known++
	}
	if others, there := keys["also"]; there {
		if also, ok = parseAlso(others, project); !ok {
			return "", Limits{}, nil, false
		}
		known++
	}
	return project, limits, also, len(keys) == known
}

// readInto parses a JSON text into the variable that value points to. It returns false if the text
// is empty, null, or of another type.
func readInto(value any, text json.RawMessage) bool {
	return len(text) > 0 && string(text) != "null" && json.Unmarshal(text, value) == nil
}
