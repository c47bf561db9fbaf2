// Finds tokens whose container is gone.

package doctor

import (
	"fmt"
	"slices"

	"terok-gate-hook/store"
)

func (e *examination) orphans() {
	entries, err := e.tokens.Entries()
	if err != nil {
		return // reported already
	}
	orphans := slices.DeleteFunc(entries, func(entry store.Entry) bool { return entry.State() != store.Orphan })
	if len(orphans) == 0 {
		e.ok("none")
		return
	}
	e.fix(Warning, fmt.Sprintf("tokens whose container is dead: %d", len(orphans)), e.ourselves("reap"), func() (string, error) {
		revoked, err := e.tokens.Sweep()
		return fmt.Sprintf("revoked %d", len(revoked)), err
	})
}
