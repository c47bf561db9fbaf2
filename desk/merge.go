// Decides what sync does with each of the gate's refs, by a three-way merge with upstream's.

package desk

import "strings"

// verdict is the decision about one of the gate's refs.
type verdict int

const (
	same    verdict = iota // gate and upstream have the same, or neither has anything
	create                 // upstream has it, and the gate does not
	follow                 // set it to what upstream has, and keep the old tip
	forward                // move it forward to what upstream has
	ahead                  // containers have moved it, upstream has not
	theirs                 // only the gate has it: upstream never had it
	waits                  // upstream and containers have moved it, so the operator decides
)

// judge decides about a ref from three values: upstream's (origin), the one of upstream's that the
// gate took last (last), and the gate's (gate); "" means that there is none. isForward reports
// whether upstream's value has the gate's in its history.
func judge(origin, last, gate string, isForward func() (bool, error)) (verdict, error) {
	switch {
	case origin == gate:
		return same, nil
	case gate == "":
		return create, nil
	case last == "" && origin == "":
		return theirs, nil
	case gate == last && origin == "":
		return follow, nil // upstream has deleted it, so there is no history to look at
	case origin == last:
		return ahead, nil
	case gate == last, last == "":
		is, err := isForward()
		switch {
		case err != nil:
			return waits, err
		case is:
			return forward, nil
		case gate == last:
			return follow, nil
		}
	}
	return waits, nil
}

// inTheWay returns an existing ref because of which git cannot create ref, or "": git allows no
// ref below another.
func inTheWay(ref string, all refs, parents map[string]string) string {
	for i := strings.LastIndexByte(ref, '/'); i > 0; i = strings.LastIndexByte(ref[:i], '/') {
		if all[ref[:i]] != "" {
			return ref[:i]
		}
	}
	return parents[ref]
}

// parentsOf returns, for each directory of refs, the first of the refs in it.
func parentsOf(all refs) map[string]string {
	parents := map[string]string{}
	for ref := range all {
		for i := strings.LastIndexByte(ref, '/'); i > 0; i = strings.LastIndexByte(ref[:i], '/') {
			if first := parents[ref[:i]]; first == "" || ref < first {
				parents[ref[:i]] = ref
			}
		}
	}
	return parents
}
