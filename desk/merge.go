// Decides what sync does with each of the gate's refs, by a three-way merge with upstream's refs.

package desk

import "strings"

// verdict is the decision about one of the gate's refs.
type verdict int

const (
	same    verdict = iota // gate and upstream have the same value, or none
	create                 // the gate does not have the ref, and gets upstream's value
	follow                 // set the ref to what upstream has, and keep the old tip
	forward                // move the ref forward to what upstream has
	ahead                  // containers have moved the ref, but upstream has not
	theirs                 // only the gate has the ref, and upstream never had it
	waits                  // upstream and containers have moved the ref: the operator decides
)

// judge decides about a ref from three values: origin is upstream's, gate is the gate's, and last is the
// value that the gate last took from upstream. "" means that there is no value. isForward reports whether
// gate is in the history of origin.
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

// inTheWay returns an existing ref that keeps git from creating ref, or "" if there is none. Git allows no
// ref below another: refs/heads/x/y cannot exist while refs/heads/x exists. parents is what parentsOf(all)
// returns.
func inTheWay(ref string, all refs, parents map[string]string) string {
	for i := strings.LastIndexByte(ref, '/'); i > 0; i = strings.LastIndexByte(ref[:i], '/') {
		if all[ref[:i]] != "" {
			return ref[:i]
		}
	}
	return parents[ref]
}

// parentsOf returns a map. Its keys are the directories of refs, such as refs/heads. The value is
// the first ref below that directory, in the order of names.
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
