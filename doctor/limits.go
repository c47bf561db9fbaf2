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
		"at its next write it removes those with limits, which its revoke does not find", limited, hashed, others),
		"if such a program writes this file, give the hooks and their gate another file: "+e.self("F", "install")+"; if terok-gate create made those tokens, do nothing")
}
