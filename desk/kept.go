// Makes and parses the names of refs that keep old tips: refs/terok/kept/<time>-<number>/<ref>.

package desk

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// KeepFor is how long an old tip is kept by default.
const KeepFor = 30 * 24 * time.Hour

const keptTime = "20060102T150405Z"

// Kept is an old tip of a ref that was deleted, or moved other than forward.
type Kept struct {
	Ref    string    `json:"ref"`    // the ref that had this tip
	Commit string    `json:"commit"` // the old tip; it may be an annotated tag
	Time   time.Time `json:"time"`   // when the ref was deleted or moved
	Name   string    `json:"name"`   // the ref that keeps the old tip
}

// NewKept returns the name of a ref to keep an old tip of ref. Two names with the same time need different
// numbers.
func NewKept(ref string, at time.Time, number int) string {
	at = at.UTC()
	return fmt.Sprintf("%s%s-%09d/%s", keptPrefix, at.Format(keptTime), at.Nanosecond()+number, ref)
}

// keptIn returns the old tips that these refs keep, newest first. It leaves out refs whose names it
// does not understand.
func keptIn(all refs) (kept []Kept) {
	for name, id := range all {
		rest, is := strings.CutPrefix(name, keptPrefix)
		if !is {
			continue
		}
		when, ref, _ := strings.Cut(rest, "/")
		when, _, _ = strings.Cut(when, "-")
		at, err := time.Parse(keptTime, when)
		if err == nil && checkRef(ref) == nil {
			kept = append(kept, Kept{Ref: ref, Commit: id, Time: at, Name: name})
		}
	}
	slices.SortFunc(kept, func(a, b Kept) int {
		if c := b.Time.Compare(a.Time); c != 0 {
			return c
		}
		return strings.Compare(b.Name, a.Name)
	})
	return kept
}

// ParseKept parses lines of an object id and a ref name, and returns the old tips that these refs keep,
// newest first. If a line has another form, it returns nil.
func ParseKept(text string) []Kept {
	all, err := parseRefs(text)
	if err != nil {
		return nil
	}
	return keptIn(all)
}
