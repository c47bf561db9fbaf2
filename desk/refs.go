// Reads lists of refs that git prints, and checks every id and name: the repository's user may
// be hostile.

package desk

import (
	"fmt"
	"os/exec"
	"strings"
)

// refs are object ids by full ref name.
type refs map[string]string

// refFormat is the format that parseRefs reads.
const refFormat = "--format=%(objectname) %(refname)"

// listRefs runs a command that prints an object id and a name in each line.
func listRefs(cmd *exec.Cmd) (refs, error) { return startRefs(cmd)() }

// refsLimit limits how many bytes of refs are read. Containers can choose names of up to 4,000 bytes, and the
// gate may keep 1,000 refs for each task. Several such tasks must not make the operator's commands fail.
const refsLimit = 512 << 20

// startRefs starts a command like that of listRefs, and returns a function that waits for the refs.
func startRefs(cmd *exec.Cmd) (wait func() (refs, error)) {
	text := start(cmd, refsLimit)
	return func() (refs, error) {
		out, err := text()
		if err != nil {
			return nil, err
		}
		return parseRefs(out)
	}
}

func parseRefs(text string) (refs, error) {
	all := refs{}
	for line := range strings.Lines(text) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !isID(id) || checkRef(name) != nil {
			return nil, fmt.Errorf("%q does not describe a ref", line)
		}
		all[name] = id
	}
	return all, nil
}

// below returns the refs below a prefix, with replacement in the prefix's place.
func (r refs) below(prefix, replacement string) refs {
	all := refs{}
	for name, id := range r {
		if rest, is := strings.CutPrefix(name, prefix); is {
			all[replacement+rest] = id
		}
	}
	return all
}

// IsFullID reports whether the text has the form of a full object id.
func IsFullID(text string) bool {
	return (len(text) == 40 || len(text) == 64) && strings.Trim(text, "0123456789abcdef") == ""
}

// isID reports whether the text is the full id of an object. An id of zeros means that there is no object.
func isID(text string) bool { return IsFullID(text) && strings.Trim(text, "0") != "" }

// checkRef returns an error unless the name is a full ref name by the rules of
// git-check-ref-format(1).
func checkRef(name string) error {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune(" ~^:?*[\\", r) }
	if !strings.HasPrefix(name, "refs/") || strings.ContainsFunc(name, bad) ||
		strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.HasSuffix(name, ".") {
		return fmt.Errorf("%q is not a full ref name", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return fmt.Errorf("%q is not a full ref name", name)
		}
	}
	return nil
}

// FullRef returns the full name of a branch. A full ref name is returned as it is.
func FullRef(name string) (string, error) {
	if !strings.HasPrefix(name, "refs/") {
		name = heads + name
	}
	return name, checkRef(name)
}

// ShortRef returns the short name of a branch, and the full name of any other ref.
func ShortRef(ref string) string { return strings.TrimPrefix(ref, heads) }

const (
	heads = "refs/heads/"
	tags  = "refs/tags/"

	originPrefix   = "refs/terok/origin/"
	lastPrefix     = "refs/terok/last/"
	gatePrefix     = "refs/terok/gate/"
	keptPrefix     = "refs/terok/kept/"
	incomingPrefix = "refs/terok/incoming/"
)

// RefCommand returns a command for git update-ref -z --stdin. If old is "", the command creates the ref; if
// new is "", the command deletes the ref.
func RefCommand(ref, old, new string) string {
	switch {
	case old == "":
		return "create " + ref + "\x00" + new + "\x00"
	case new == "":
		return "delete " + ref + "\x00" + old + "\x00"
	}
	return "update " + ref + "\x00" + new + "\x00" + old + "\x00"
}
