// Decides whether a token may be used for a request, or for a connection to a service, now.

package store

import (
	"errors"
	"reflect"
)

// Use is what a token is used for: to fetch from a project, to push to it, or to connect to a
// service of the host.
type Use struct {
	Project string
	Push    bool

	Service string // its name; empty for git
	Listen  string // the address in the container's network that the service listens at
}

// Reasons why a token may not be used, besides [ErrFrozen] and [ErrFreezesWrong]. The last
// three are for uses that were allowed and no longer are, as the [context.Cause] of
// [Reader.While] and the error of [Reader.Still].
var (
	ErrNotTheirs    = errors.New("the token is for another project")
	ErrNoService    = errors.New("the token is not for this service")
	ErrReadOnly     = errors.New("the token may fetch and not push")
	ErrReadOnlyHere = errors.New("the token may fetch from this project and not push to it")

	ErrRevoked = errors.New("the token was revoked")
	ErrDied    = errors.New("the token's process has ended")
	ErrChanged = errors.New("what the token may push was changed")
)

// For returns what the pass allows for a use, or why it does not allow it. It is the only judge:
// a use goes on for as long as For, of the pass of each moment, allows it as before.
func (p Pass) For(use Use) (Limits, error) {
	if use.Service != "" {
		if listen, ok := p.Services[use.Service]; !ok || listen != use.Listen {
			return Limits{}, ErrNoService
		}
		return Limits{}, p.freezes.Check(p.Container, p.Project, p.Project)
	}

	limits, ok := p.In(use.Project)
	if !ok {
		return limits, ErrNotTheirs
	}
	if err := p.freezes.Check(p.Container, p.Project, use.Project); err != nil {
		return limits, err
	}

	switch {
	case use.Push && p.Limits.ReadOnly:
		return limits, ErrReadOnly
	case use.Push && limits.ReadOnly:
		return limits, ErrReadOnlyHere
	}
	return limits, nil
}

// stillFor returns nil if a use that was allowed by the pass before is still allowed by this
// one. A push goes on only under the limits that it was judged by.
func (p Pass) stillFor(use Use, before Pass) error {
	same := p.Grant == before.Grant && p.Container == before.Container && reflect.DeepEqual(p.Process, before.Process)
	if !same {
		return ErrRevoked
	}

	now, err := p.For(use)
	if err != nil || !use.Push {
		return err
	}
	if then, _ := before.In(use.Project); !reflect.DeepEqual(now, then) {
		return ErrChanged
	}
	return nil
}
