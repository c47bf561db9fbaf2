// Editing a token file's content: old bytes in, new bytes and the removed entries out.

package store

import (
	"math/rand/v2"
	"slices"
)

// fate is what a change has in mind for an entry.
type fate int

const (
	stays  fate = iota
	spared      // it stays, and is reported to the caller
	goes
	doubtful // it goes if its process is dead, but there may be no time to find out
)

// edit is a change.
type edit struct {
	fate   func(*item) fate // of each well-formed entry
	add    *Entry           // comes last, or nil
	pinned *Pinned          // the process of that entry, or nil if it is only described
}

// edited is what a change made.
type edited struct {
	content [][]byte // in pieces, parts of the old content most of them; nil if nothing changes
	gone    []Entry
	spared  bool // some entry was spared
}

// looks is how many doubtful processes a change looks at. That costs it as much as its
// fsync(2) does, and a few hooks have looked at a hundred.
const looks = 32

// apply edits a token file's content. What stays keeps its bytes and its place.
//
// Of a key that comes twice the last one counts. It decides what becomes of all of
// them: when it goes, the first must not come back.
func (e edit) apply(content []byte) (edited, error) {
	fates := map[int]fate{} // of members that do not just stay
	var doubts []int
	x, err := scan(content, func() func(*item) {
		clear(fates)
		doubts = nil
		at := -1
		return func(it *item) {
			at++
			if !it.wellFormed() {
				return
			}
			switch to := e.fate(it); to {
			case stays:
			case doubtful:
				doubts = append(doubts, at)
			default:
				fates[at] = to
			}
		}
	})
	if err != nil {
		return edited{}, err
	}
	for _, at := range inTurn(doubts) {
		if it := x.item(x.members[at]); it.process.Life() == Dead {
			fates[at] = goes
		}
	}

	last := map[string]int{} // of the keys that matter: the place that counts
	for at := range fates {
		last[string(x.members[at].token)] = at
	}
	const added = -1 // counts more than any place
	if e.add != nil {
		last[string(e.add.Token)] = added
	}
	var places []int // of those keys
	for at, m := range x.members {
		if was, ok := last[string(m.token)]; ok && m.token != nil {
			places = append(places, at)
			if was != added {
				last[string(m.token)] = at
			}
		}
	}
	var done edited
	var cut []int
	for _, at := range places {
		counts := last[string(x.members[at].token)]
		if counts == added || fates[counts] == goes {
			cut = append(cut, at)
		}
		// A token that is issued again has gone too, if its entry was to go.
		if counts == at || counts == added && fates[at] == goes {
			switch fates[at] {
			case goes:
				done.gone = append(done.gone, x.item(x.members[at]).entry())
			case spared:
				done.spared = true
			}
		}
	}
	if e.add != nil || len(cut) > 0 {
		done.content, err = x.splice(cut, e.add)
	}
	return done, err
}

// inTurn picks at most [looks] of them: all if they are few, else a row of them that
// begins anywhere, so that each gets its turn.
func inTurn(all []int) []int {
	if len(all) <= looks {
		return all
	}
	from := rand.IntN(len(all))
	return append(slices.Clone(all[from:min(from+looks, len(all))]), all[:max(0, from+looks-len(all))]...)
}

// splice returns the content without the members at these places, which are in order,
// and with the entry at its end.
func (x index) splice(cut []int, add *Entry) (pieces [][]byte, err error) {
	between := "{\n  "
	put := func(text []byte) {
		pieces = append(pieces, []byte(between), text)
		between = ",\n  "
	}
	keep := func(members []member) {
		if len(members) == 0 {
			return
		}
		if x.canonical != nil {
			put(x.content[members[0].start:members[len(members)-1].end])
			return
		}
		for _, m := range members {
			put(x.content[m.start:m.end])
		}
	}
	from := 0
	for _, at := range cut {
		keep(x.members[from:at])
		from = at + 1
	}
	keep(x.members[from:])
	if add != nil {
		text, err := add.member()
		if err != nil {
			return nil, err
		}
		put(text)
	}
	if pieces == nil {
		return [][]byte{[]byte("{}\n")}, nil
	}
	return append(pieces, []byte("\n}\n")), nil
}
