// What a push moved: told by git's hook or, where git was ended before it could tell,
// found out afterwards.

package gate

import (
	"context"
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
	git, err := g.start(repo, store.Pass{Grant: store.Grant{Project: repo.project}}, "",
		"for-each-ref", "--format=%(objectname) %(refname)")
	var text []byte
	if err == nil {
		text, err = git.output(context.Background())
	}
	if err != nil {
		slog.Warn("find out what a push moved", "project", repo.project, "error", err)
		return nil, 0
	}
	now := map[string]string{} // by ref
	for line := range strings.Lines(string(text)) {
		if object, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			now[ref] = object
		}
	}
	for m := range asked.all() {
		object, there := now[m.ref]
		if there && object == m.new && m.new != m.old || !there && isZero(m.new) && !isZero(m.old) {
			if number++; len(moved) < mostMoves {
				moved = append(moved, m)
			}
		}
	}
	return moved, number
}

// isZero tells whether an object id stands for no object.
func isZero(id string) bool { return strings.Trim(id, "0") == "" }
