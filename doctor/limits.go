// Warns of limited and hashed tokens in a token file that a Python program may also write.

package doctor

import (
	"fmt"

	"terok-gate-hook/store"
)

func (e *examination) limits() {
	limited, hashed, others := 0, 0, 0

	err := e.tokens.Each(func(entry store.Entry) {
		isHashed := entry.Token.Key() == string(entry.Token) // which no Python program writes
		if entry.Limited() {
			limited++
		}
		if isHashed {
			hashed++
		}
		if !entry.Limited() && !isHashed && entry.Container == "" && entry.Process == nil {
			others++
		}
	})
	if err != nil {
		return // said already
	}

	if others == 0 || limited+hashed == 0 {
		e.ok(fmt.Sprintf("tokens with limits: %d, hashed: %d", limited, hashed))
		return
	}

	// Tokens from create look like those of the Python programs, also to those programs.
	e.warn(fmt.Sprintf("tokens with limits: %d, hashed: %d, beside tokens that a Python program may have written: %d. Such a program honours neither; "+
		"it drops those with limits at its next write, and its revoke does not find them", limited, hashed, others),
		"if one writes this file, give the hooks another one, which their gate reads: "+e.self("F", "install")+"; if create made those tokens, nothing")
}
