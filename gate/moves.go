// What a push moved: told by git's hook or, where git was ended before it could tell,
// found out afterwards.

package gate

import (
	"log/slog"
	"strings"

	"terok-gate-hook/store"
)

// mostMoves is how many refs of a push the trail names.
const mostMoves = 1000

// move is a ref that a push moves: created, if its old object is all zeroes, and
// deleted, if its new one is.
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

// movedByNow finds out which of a push's refs have moved, when git cannot tell any more:
// the first of them, and how many.
func (g *Gate) movedByNow(repo repository, asked commands) (moved []move, number int) {
	now := map[string]string{} // by ref; of others there may be any number
	for m := range asked.all() {
		now[m.ref] = ""
	}
	git, err := g.start(repo, store.Pass{Grant: store.Grant{Project: repo.project}}, "",
		"for-each-ref", "--format=%(objectname) %(refname)")
	if err == nil {
		err = git.lines(func(line string) {
			object, ref, _ := strings.Cut(line, " ")
			if _, isAsked := now[ref]; isAsked {
				now[ref] = object
			}
		})
	}
	if err != nil {
		slog.Warn("find out what a push moved", "project", repo.project, "error", err)
		return nil, 0
	}
	for m := range asked.all() {
		object := now[m.ref]
		if object != "" && object == m.new && m.new != m.old || object == "" && isZero(m.new) && !isZero(m.old) {
			if number++; len(moved) < mostMoves {
				moved = append(moved, m)
			}
		}
	}
	return moved, number
}

// isZero tells whether an object id stands for no object.
func isZero(id string) bool { return strings.Trim(id, "0") == "" }
