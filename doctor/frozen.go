// Reports frozen containers and projects.

package doctor

import (
	"fmt"
	"path/filepath"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

func (e *examination) frozen() {
	path := filepath.Join(filepath.Dir(e.tokens.Path), store.FreezesName)
	freezes, err := e.tokens.Freezes()
	switch {
	case err != nil:
		e.broken(err.Error(), "to thaw everything: "+printable.Shell("mv", path, path+".away"))
	case freezes.All:
		e.warn("everything is frozen: no container is served", e.ourselves("thaw", "--all"))
	case len(freezes.Containers)+len(freezes.Projects) > 0:
		e.warn(fmt.Sprintf("frozen containers: %d, frozen projects: %d; %s names them", len(freezes.Containers), len(freezes.Projects), path),
			e.ourselves("thaw", "--help")+" says how to thaw one")
	default:
		e.ok("nothing")
	}
}
