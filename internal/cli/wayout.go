// Which flag gets somebody past an error: the packages that make the errors do not know
// the flags.

package cli

import (
	"errors"
	"io/fs"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// wayOut ends the text of an error, if there is a flag for it.
func wayOut(err error) string {
	switch {
	case errors.Is(err, store.ErrNoDefault):
		return ": name one with --token-file"
	case errors.Is(err, hook.ErrNotAdmitted):
		return " by --allow-project"
	case errors.Is(err, hook.ErrNoEnvDir):
		return ": name one with --env-dir"
	case errors.Is(err, hook.ErrNoGate) && errors.Is(err, fs.ErrPermission): // a rootless user's podman reads root's definitions
		return ": it is another user's: run terok-gate-hook install as the user who starts the container"
	case errors.Is(err, hook.ErrNoGate):
		return ": start it, as the service terok-gate or with terok-gate serve"
	case errors.Is(err, hook.ErrHostNetwork):
		return ": give it a network of its own, as --network none does, or let it reach a gate by --gate-url"
	case errors.Is(err, hook.ErrTaken):
		return ": see who listens there, or choose another one by --gate-listen"
	case errors.Is(err, hook.ErrNotAlone):
		return ": give it a network of its own, or do without --withhold-token"
	}
	return ""
}
