// A three-way merge of refs: what becomes of the gate's when upstream has moved.

package desk

import "strings"

// verdict is what is to be done with a ref of the gate's.
type verdict int

const (
	same    verdict = iota // gate and upstream have the same, or neither has anything
	create                 // upstream has it, and the gate does not
	follow                 // the gate goes where upstream has gone
	forward                // the same, and nothing is left behind
	ahead                  // containers have moved it, upstream has not
	theirs                 // upstream never had it
	waits                  // both have moved it
)

// judge returns what is to be done with a ref, of which upstream has one value, had another
// one last, and the gate has a third; "" is none. isForward is asked whether upstream has
// the gate's in its history.
func judge(origin, last, gate string, isForward func() (bool, error)) (verdict, error) {
	switch {
	case origin == gate:
		return same, nil
	case gate == "":
		return create, nil
	case last == "" && origin == "":
		return theirs, nil
	case gate == last && origin == "":
		return follow, nil // nothing of a deleted ref is looked at
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

// inTheWay returns a ref among all that keeps another one from being created: git has no
// ref below another.
func inTheWay(ref string, all refs, parents map[string]string) string {
	for i := strings.LastIndexByte(ref, '/'); i > 0; i = strings.LastIndexByte(ref[:i], '/') {
		if all[ref[:i]] != "" {
			return ref[:i]
		}
	}
	return parents[ref]
}

// parentsOf returns, for each directory that refs are in, one of the refs.
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
