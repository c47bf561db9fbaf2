// Defines an entry, which describes one token, and the form of an entry in the token file.

package store

import (
	"encoding/json"
	"fmt"
	"time"
)

// Entry is one token of the token file, with its grant, limits and container.
type Entry struct {
	Token Token // or its key ([Token.Key]), which does not reveal the token to readers of the file
	Grant
	Limits
	Also      Also      // projects besides the grant's
	Scope     bool      // the entry has a scope: see entryJSON
	Container string    // the full container id; empty if the token belongs to no container
	Created   time.Time // when Issue wrote a token with a container or process; zero for other tokens
	Process   *Process  // the process that the token lives and dies with, or nil
	Gate      *Attached // how the gate listens in the container's network, or nil
	Malformed bool      // the limits are not understood: see [Entry.State]
}

// Attached describes where the gate and services of the host listen in a container's own network.
type Attached struct {
	Listen   string `json:"listen"`   // host:port of the gate there
	Withheld bool   `json:"withheld"` // the container does not know its token, and the gate asks for none at Listen
	// Network is the cookie of the network namespace (SO_NETNS_COOKIE), 0 if it is not known.
	Network uint64 `json:"network,omitempty"`
	// Services are the services of the host that the container may use, each with its host:port
	// in the container's network.
	Services map[string]string `json:"services,omitempty"`
}

// ListenFor returns the host:port of a service of the host in the container's network, or "" if the
// container may not use the service. The service "" stands for the gate.
func (a *Attached) ListenFor(service string) string {
	switch {
	case a == nil:
		return ""
	case service == "":
		return a.Listen
	}
	return a.Services[service]
}

// Is reports whether the entry belongs to the token. A token's key is not accepted in place of the
// token.
func (e Entry) Is(token Token) bool {
	if e.Token.isKey() {
		return string(e.Token) == token.hash()
	}
	return e.Token == token
}

// State says whether an entry counts, and why.
type State string

const (
	Live      State = "live"      // its process lives, or it has neither process nor container
	Orphan    State = "orphan"    // its process is provably dead
	Unsure    State = "unknown"   // it is not known whether its process lives
	Malformed State = "malformed" // its limits are not understood
)

// Counts reports whether a gate honours a token in this state. A token whose process cannot be
// judged counts until the token is revoked.
func (s State) Counts() bool { return s == Live || s == Unsure }

// State returns the state of the entry. The gate and all reports use this method, so that they
// agree on which tokens count and which containers live.
func (e Entry) State() State {
	life := e.Process.Life()
	switch {
	case life == Dead:
		return Orphan
	case e.Malformed:
		return Malformed
	case life == Alive, e.Process == nil && e.Container == "":
		return Live
	}
	return Unsure
}

// entryJSON is the form of an entry in the file. Scope repeats the project: earlier versions of the
// Python gate read the project, and later ones accept only entries with a scope. The original
// Python programs write only project and task, and so do we for an entry that has nothing else. A
// limited entry has neither project nor scope.
type entryJSON struct {
	Limited   any      `json:"limited,omitempty"` // a [limitedJSON]; any, since encoding/json is slow when it first sees a type
	Project   string   `json:"project,omitempty"`
	Task      string   `json:"task"`
	Scope     string   `json:"scope,omitempty"`
	Also      any      `json:"also,omitempty"` // an [Also]
	Container string   `json:"container,omitempty"`
	Created   string   `json:"created,omitempty"`
	Process   *Process `json:"process,omitempty"`
	Gate      any      `json:"gate,omitempty"` // an [Attached]
}

// member returns the entry as a member of the file's object.
func (e Entry) member() ([]byte, error) {
	value := entryJSON{Project: e.Project, Task: e.Task, Container: e.Container, Process: e.Process}
	if e.Gate != nil {
		value.Gate = e.Gate
	}

	tied := e.Container != "" || e.Process != nil
	if tied || e.Scope {
		value.Scope = e.Project
	}
	switch {
	case e.Limited():
		value.Limited = e.Limits.of(e.Project, e.Also)
		value.Project, value.Scope = "", ""
	case len(e.Also) > 0:
		value.Also = e.Also
	}
	if tied {
		created := e.Created
		if created.IsZero() {
			created = time.Now()
		}
		value.Created = created.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano)
	}

	text, err := json.MarshalIndent(value, "  ", "  ")
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%q: ", string(e.Token)), text...), nil
}
