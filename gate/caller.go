// Defines the caller of a request, what the request may do, and for how long it may go on.

package gate

import (
	"context"

	"terok-gate-hook/store"
)

// caller is who a request is served for.
type caller struct {
	store.Grant        // of the token, or the project that a host vouches for
	Container   string // empty if the token belongs to none
	Fingerprint string
	Host        string // that vouches for the container; empty if the token was shown here
}

// token identifies the caller's token among those of all hosts.
func (c caller) token() string {
	if c.Host == "" {
		return c.Fingerprint
	}
	return c.Host + " " + c.Fingerprint
}

// itself is the caller for whom the gate runs git for its own purposes.
func itself(repo repository) caller { return caller{Grant: store.Grant{Project: repo.project}} }

// permit is what a request may do, by the judgement of [Gate.judge].
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

// standing reports whether a request that was allowed still is.
type standing interface {
	// still returns nil if the request may go on now, and otherwise an error with the reason.
	still() error
	// while returns a context that is done when ctx is, or when the request may no longer go
	// on, with the reason as its cause. The caller must call release.
	while(ctx context.Context) (valid context.Context, release func())
}

// byToken is the standing of a request that shows a token.
type byToken struct {
	tokens *store.Reader
	pass   store.Pass
	use    store.Use
}

func (b byToken) still() error { return b.tokens.Still(b.pass, b.use) }

func (b byToken) while(ctx context.Context) (context.Context, func()) {
	return b.tokens.While(ctx, b.pass, b.use)
}
