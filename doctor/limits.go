// Warns of limited and hashed tokens in a token file that a Python program may also write.

package doctor

import (
	"fmt"

	"terok-gate-hook/store"
)

func (e *examination) limits() {
	limited, hashed, others := 0, 0, 0

	err := e.tokens.Each(func(entry store.Entry) {
		isHashed := entry.Token.Key() == string(entry.Token) // Python programs write no hashed tokens
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
		return // reported already
	}

	if others == 0 || limited+hashed == 0 {
		e.ok(fmt.Sprintf("tokens with limits: %d, hashed: %d", limited, hashed))
		return
	}

	// Tokens of terok-gate create look like those of the Python programs, so the user must decide.
	e.warn(fmt.Sprintf("tokens with limits: %d, hashed: %d, beside tokens that a Python program may have written: %d. Such a program accepts neither; "+
		"its revoke does not find tokens with limits, and its next write removes them", limited, hashed, others),
		"if such a program writes this file, give the hooks and their gate another file: "+e.self("F", "install")+"; if terok-gate create made those tokens, do nothing")
}
