// Limited tokens in a token file that a Python program may write too.

package doctor

import (
	"fmt"

	"terok-gate-hook/store"
)

func (e *examination) limits() {
	limited, others := 0, 0
	err := e.tokens.Each(func(entry store.Entry) {
		hashed := entry.Token.Key() == string(entry.Token) // which no Python program writes
		switch {
		case entry.Limited():
			limited++
		case entry.Container == "" && entry.Process == nil && !hashed:
			others++
		}
	})
	switch {
	case err != nil: // said already
	case limited == 0:
		e.ok("no token has limits")
	case others == 0:
		e.ok(fmt.Sprintf("tokens with limits: %d", limited))
	default:
		// What create writes looks like what the Python programs write, to them too.
		e.warn(fmt.Sprintf("tokens with limits: %d, beside tokens that a Python program may have written: %d. Such a program drops the ones with limits at its next write, and its revoke does not find them",
			limited, others),
			"if one writes this file, give the hooks another one, which their gate reads: "+e.self("F", "install")+"; if create made those tokens, nothing")
	}
}
