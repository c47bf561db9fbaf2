// Defines the caller of a request, what the request may do, and how long the request may go on.

package gate

import (
	"context"

	"terok-gate-hook/store"
)

// caller describes the owner of a request's token. If the gate on another machine, a host, has judged
// the token, that host vouches for the request to this gate.
type caller struct {
	store.Grant        // the token's, or the project and task that a host vouches for
	Container   string // empty if the token belongs to none
	Fingerprint string
	Host        string // the host that vouches for the request; empty if this gate judges the token
}

// token identifies the caller's token among the tokens of all hosts.
func (c caller) token() string {
	if c.Host == "" {
		return c.Fingerprint
	}
	return c.Host + " " + c.Fingerprint
}

// itself returns the caller of git commands that the gate runs for its own purposes.
func itself(repo repository) caller { return caller{Grant: store.Grant{Project: repo.project}} }

// permit is the judgement of [Gate.judge] on a request.
type permit struct {
	who    caller
	may    rights
	stands standing // nil for a request that is refused
}

// rights are what a request may do in one project.
type rights struct {
	project string // empty for none
	store.Limits
}

// standing reports whether a request that was allowed is still allowed.
type standing interface {
	// still returns nil if the request may go on now, and otherwise an error with the reason.
	still() error
	// while returns a context that is done when ctx is done, or when the request may no longer go
	// on. The cause of the context is the reason. The caller must call release.
	while(ctx context.Context) (valid context.Context, release func())
}

// byToken is the standing of a request whose token this gate has judged.
type byToken struct {
	tokens *store.Reader
	pass   store.Pass
	use    store.Use
}

func (b byToken) still() error { return b.tokens.Still(b.pass, b.use) }

func (b byToken) while(ctx context.Context) (context.Context, func()) {
	return b.tokens.While(ctx, b.pass, b.use)
}
