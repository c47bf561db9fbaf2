// Authorizes requests, by the token that they show or the network that they come from.

package gate

import (
	"net/http"

	"terok-gate-hook/internal/networks"
	"terok-gate-hook/store"
)

// judge returns the caller of a request, and what the caller's token allows in the project that is
// asked for. If the request is not allowed, judge returns a refusal. The token is the Basic user
// name, unless the container's token is withheld. The password is ignored.
//
// The gate looks for the repository only afterwards, so a refusal does not reveal whether the
// repository exists.
func (g *Gate) judge(r *http.Request, asked route) (p permit, _ *refusal) {
	if r.TLS != nil {
		return g.judgeVoucher(r, asked)
	}

	pass, refused := g.identify(r)
	p.who = caller{Grant: pass.Grant, Container: pass.Container, Fingerprint: pass.Fingerprint}
	if refused != nil {
		return p, refused
	}

	limits, err := pass.For(asked.use())
	if err == store.ErrNotTheirs {
		return p, notTheirs
	}
	p.may = rights{asked.project, limits}
	if err != nil {
		return p, refusalOf(err)
	}
	p.stands = byToken{g.tokens, pass, asked.use()}
	return p, nil
}

// use returns what the request uses a token for.
func (r route) use() store.Use {
	return store.Use{Project: r.project, Push: r.service == receivePack}
}

// identify returns the pass of the token that the request shows. In the network of a container
// whose token is withheld, it returns the pass of that token.
func (g *Gate) identify(r *http.Request) (store.Pass, *refusal) {
	if key, withheld := g.networks.Only(networks.Of(r.Context())); withheld {
		if who, ok := g.tokens.FindKey(key); ok {
			return who, nil
		}
		return store.Pass{}, forbidden
	}

	token, _, ok := r.BasicAuth()
	if !ok || token == "" { // an empty answer to git's question for a user name
		return store.Pass{}, unauthorized
	}
	who, ok := g.tokens.Find(token)
	if !ok {
		return store.Pass{Fingerprint: store.Token(token).Fingerprint()}, forbidden
	}
	return who, nil
}
