// Who may.

package gate

import (
	"net/http"

	"terok-gate-hook/store"
)

// judge returns what the request's token allows, if that is what it asks for. The token
// is the Basic user name; the password counts for nothing.
//
// A token of another project gets the same answer as one that is not valid, and before
// anybody has looked for the repository.
func (g *Gate) judge(r *http.Request, asked route) (store.Pass, *refusal) {
	token, _, ok := r.BasicAuth()
	if !ok {
		return store.Pass{}, unauthorized
	}
	who, ok := g.tokens.Find(token)
	if !ok {
		return store.Pass{Fingerprint: store.Token(token).Fingerprint()}, forbidden
	}
	if who.Project != asked.project {
		return who, forbidden
	}
	if asked.service == receivePack && who.ReadOnly {
		return who, readOnly
	}
	return who, nil
}
