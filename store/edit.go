// Edits a token file's content: old bytes in, new bytes and the removed entries out.

package store

import (
	"math/rand/v2"
	"slices"
)

// fate is what a change does with an entry.
type fate int

const (
	stays  fate = iota
	spared      // it stays, and the caller is told
	goes
	doubtful // it goes if its process is found dead; a change checks only some of these processes
	forbids  // it forbids the change, so all entries stay
)

// edit describes a change.
type edit struct {
	fate   func(*item) fate // of each well-formed entry
	add    *Entry           // to append, or nil
	pinned *Pinned          // the process of the entry to append; nil if it is not held open
}

// edited is the result of a change.
type edited struct {
	content [][]byte // in pieces, most of them parts of the old content; nil if nothing changes
	gone    []Entry
	spared  bool // some entry was spared
	forbid  bool // some entry forbids the change
}

// looks is the largest number of doubtful processes that a change checks. That many checks take as
// long as the change's fsync(2), and a few changes are enough to check a hundred processes.
const looks = 32

// apply edits a token file's content. Entries that stay keep their bytes and their order.
//
// If a key occurs twice, only the last entry counts. When that one goes, the earlier ones go as
// well, since they must not become valid.
func (e edit) apply(content []byte) (edited, error) {
	fates := map[int]fate{} // by place, of members that do not simply stay
	var doubts []int
	x, err := scan(content, func() func(*item) {
		clear(fates)
		doubts = nil
		at := -1
		return func(it *item) {
			at++
			if !it.isEntry() {
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

	for _, to := range fates {
		if to == forbids {
			return edited{forbid: true}, nil
		}
	}
	for _, at := range inTurn(doubts) {
		if it := x.item(x.members[at]); it.process.Life() == Dead {
			fates[at] = goes
		}
	}

	last := map[string]int{} // by affected key: the place of the member that counts (see the loop below)
	for at := range fates {
		last[string(x.members[at].token)] = at
	}
	const added = -1 // the new entry counts instead
	if e.add != nil {
		last[string(e.add.Token)] = added
	}

	var places []int // of all members with those keys
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

		// An entry that the new one replaces is reported, too, if it was to go.
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

// inTurn returns at most [looks] of the places. If there are more, it returns consecutive ones from
// a random start, so that each place gets its turn in some change.
func inTurn(places []int) []int {
	n := len(places)
	if n <= looks {
		return places
	}
	from := rand.IntN(n)
	return append(slices.Clone(places[from:min(from+looks, n)]), places[:max(0, from+looks-n)]...)
}

// splice returns the content without the members at the places in cut, which are in ascending
// order. It appends the entry to add, if there is one.
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
