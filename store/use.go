// Decides whether a token may now be used for a request or for a connection to a service.

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
	Listen  string // the service's address in the container's network
}

// Reasons why a token may not be used, besides [ErrFrozen] and [ErrFreezesWrong]. The last three
// end only uses that were allowed before; the other reasons can end such uses, too. [Reader.Still]
// returns the reason why a use may not go on, and a context of [Reader.While] has it as its
// [context.Cause].
var (
	ErrNotTheirs    = errors.New("the token is for another project")
	ErrNoService    = errors.New("the token is not for this service")
	ErrReadOnly     = errors.New("the token may fetch and not push")
	ErrReadOnlyHere = errors.New("the token may fetch from this project and not push to it")

	ErrRevoked = errors.New("the token was revoked")
	ErrDied    = errors.New("the token's process has ended")
	ErrChanged = errors.New("the token's limits for pushes were changed")
)

// For returns the limits for a use, or an error if the pass does not allow the use. No other
// function decides this. A use in progress goes on only while For allows it with the token's
// current pass.
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

// stillFor returns nil if this pass still allows a use that an earlier pass of the token allowed,
// and otherwise an error with the reason. A push may go on only if its limits have not changed.
func (p Pass) stillFor(use Use, earlier Pass) error {
	same := p.Grant == earlier.Grant && p.Container == earlier.Container && reflect.DeepEqual(p.Process, earlier.Process)
	if !same {
		return ErrRevoked
	}

	now, err := p.For(use)
	if err != nil || !use.Push {
		return err
	}
	if then, _ := earlier.In(use.Project); !reflect.DeepEqual(now, then) {
		return ErrChanged
	}
	return nil
}
