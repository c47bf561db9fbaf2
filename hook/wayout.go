// Says how to resolve an error, for example by which flag. Some packages that make errors do not know
// the flags.

package hook

import (
	"errors"
	"io/fs"

	"terok-gate-hook/store"
)

// WayOut returns what to append to the text of an error: how to resolve it, if that is known.
func WayOut(err error) string {
	switch {
	case errors.Is(err, store.ErrNoDefault):
		return ": name one with --token-file"
	case errors.Is(err, errNotAdmitted):
		return " by --allow-project"
	case errors.Is(err, errNotReadable):
		return " by --allow-read or --allow-project"
	case errors.Is(err, errNoEnvDir):
		return ": name one with --env-dir"
	case errors.Is(err, errNoService):
		return ": see --allow-service"
	case errors.Is(err, ErrNoForward) && !errors.Is(err, fs.ErrPermission):
		return ": start it, as the service terok-gate-forward or with terok-gate forward"
	case errors.Is(err, ErrServiceTaken):
		return ": see who listens there, or choose another port with --service NAME=PORT:ADDRESS"
	case errors.Is(err, ErrUnknownService):
		return ": start it again with the --service flags that the hooks have, as terok-gate install does"
	case errors.Is(err, ErrNoGate) && errors.Is(err, fs.ErrPermission): // a rootless user's podman reads root's definitions
		return ": the gate belongs to another user: run terok-gate install as the user who starts the container"
	case errors.Is(err, ErrNoGate):
		return ": start it, as the service terok-gate or with terok-gate serve"
	case errors.Is(err, ErrHostNetwork):
		return ": give the container a network of its own, as --network none does, or a gate's address with --gate-url"
	case errors.Is(err, ErrTaken):
		return ": see who listens there, or choose another address with --gate-listen"
	case errors.Is(err, ErrNotAlone):
		return ": give the container a network of its own, or do without --withhold-token"
	}
	return ""
}
