// Parses the moves of refs, in the form in which git's hooks and pushes name them.

package gate

import (
	"bytes"
	"iter"
	"strings"
)

// move is a ref that a push moves, with its old and its new object. If the old object is all
// zeroes, the push creates the ref. If the new object is all zeroes, the push deletes the ref.
type move struct{ old, new, ref string }

// parseMove reads "OLD NEW REF".
func parseMove(line string) (move, bool) {
	fields := strings.SplitN(line, " ", 3)
	if len(fields) != 3 || !isObjectID(fields[0]) || !isObjectID(fields[1]) || len(fields[0]) != len(fields[1]) || fields[2] == "" {
		return move{}, false
	}
	return move{fields[0], fields[1], fields[2]}, true
}

func isObjectID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// isZero reports whether an object id stands for no object.
func isZero(id string) bool { return strings.Trim(id, "0") == "" }

// moves are lines "OLD NEW REF". A push may have tens of thousands, so they are parsed only when
// they are used.
type moves []byte

func (m moves) all() iter.Seq[move] {
	return func(yield func(move) bool) {
		for line := range bytes.Lines(m) {
			if one, ok := parseMove(strings.TrimSuffix(string(line), "\n")); ok && !yield(one) {
				return
			}
		}
	}
}
