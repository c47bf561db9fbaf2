// What gets somebody past an error of another package: the flag to use, which the package
// does not know.

package cli

import (
	"errors"

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
	}
	return ""
}
