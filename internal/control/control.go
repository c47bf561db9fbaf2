// Package control has the messages by which programs on the host talk to the gate, and the client
// that sends them. A hook hands the gate a listener in a container's network; other programs ask
// whether the gate serves a container. The gate's side is in package networks.
//
// The gate listens at a unix socket of type SOCK_SEQPACKET. A client connects, sends one
// message and receives one answer. Each is a JSON object of at most 4 KiB.
//
// A client decides which token a container is served with, so clients are trusted: the gate refuses
// all users except its own and root.
//
//	{"version": 1, "container": "<id>", "process": {...}, "token": "sha256:<64 hex digits>",
//	 "listen": "127.0.0.1:9418", "withheld": false}
//
// "process" is as in the token file. "token" is the key of a token ([store.Token.Key]), which does
// not reveal the token. The message carries one TCP socket of the container's network namespace
// (SCM_RIGHTS, unix(7)). The socket listens at the address that "listen" names. If that address is
// taken, the socket is not bound, and only identifies the namespace. The gate accepts or refuses:
//
//	{"version": 1}
//	{"version": 1, "refused": "<one of the refusals>", "detail": "<for a log>"}
//
// After accepting, the gate serves the container until the container's process has ended. The same
// message again is accepted and changes nothing.
//
// Without a socket, the same message asks whether the gate already serves the container, and
// {"version": 1} only asks about the gate. The answers to both questions describe the gate. If the
// gate does not serve the container, the answer to the first question has "absent" as well:
//
//	{"version": 1, "refused": "absent", "detail": "...",
//	 "gate": {"program": "<version>", "uid": 998, "token_file": "<path>", "repos": "<path>"}}
//
// terok-gate forward listens at another socket, for the same messages. There, "service" names the
// service of the host that the container is to reach. {"version": 1, "service": "<name>"} asks
// whether forward itself reaches that service.
//
// {"version": 1, "try": "<project>"} is for a gate without repositories. That gate then asks the
// gate with the repositories for the project, as it would for a container. The result is in "gate".
//
// A later version of the messages has another number. A gate refuses versions that it does
// not know, and ignores keys that it does not know.
package control

import (
	"encoding/json"
	"fmt"

	"terok-gate-hook/store"
)

// Version is the version of the messages.
const Version = 1

// MessageLimit is the largest length of a message.
const MessageLimit = 4 << 10

// Request asks the gate to serve a container at the socket that comes with it. Without a socket, it
// is a question.
type Request struct {
	Version   int            `json:"version"`
	Container string         `json:"container"`
	Process   *store.Process `json:"process"`
	Token     string         `json:"token"`             // store.Token.Key
	Service   string         `json:"service,omitempty"` // a service of the host, for terok-gate forward; empty for the gate
	Listen    string         `json:"listen"`
	Withheld  bool           `json:"withheld"`      // the container does not know the token
	Try       string         `json:"try,omitempty"` // a project; only in a question
}

// Answer is the gate's answer to a request.
type Answer struct {
	Version int     `json:"version"`
	Refused Refusal `json:"refused,omitempty"` // empty if the gate accepts
	Detail  string  `json:"detail,omitempty"`
	Gate    *Gate   `json:"gate,omitempty"` // in the answer to a request without a socket
}

// Gate is a gate's description of itself.
type Gate struct {
	Program   string `json:"program"` // its version
	UID       int    `json:"uid"`
	TokenFile string `json:"token_file"`
	Repos     string `json:"repos"` // without symbolic links; empty if there is a RepositoryGate
	// RepositoryGate is the URL of the gate that requests are handed on to.
	RepositoryGate string `json:"repository_gate,omitempty"`
	Fleet          *Fleet `json:"fleet,omitempty"` // nil if this gate works with no gate on another machine
}

// Refusal is the reason why the gate does not serve a container. It is an error.
type Refusal string

const (
	Taken          Refusal = "taken"   // another program listens at the address
	HostNetwork    Refusal = "host"    // the network is the gate's own
	Shared         Refusal = "shared"  // a container whose token is withheld would share its network
	NoService      Refusal = "service" // the program that is asked does not serve Request.Service
	Down           Refusal = "down"    // the program that is asked does not reach Request.Service
	Absent         Refusal = "absent"  // the gate does not serve the container
	UnknownVersion Refusal = "version" // the gate does not know the version of the message
	Failed         Refusal = "failed"  // the gate has failed
	Malformed      Refusal = "malformed"
)

func (r Refusal) Error() string { return "the gate refuses: " + string(r) }

// Parse reads a request that comes with a socket. An error wraps a [Refusal].
func Parse(message []byte) (r Request, err error) {
	if r, err = ParseQuestion(message); err == nil && r.Process == nil {
		err = errIncomplete
	}
	return r, err
}

var errIncomplete = fmt.Errorf("%w: process, token or listen is missing", Malformed)

// ParseQuestion reads a request that comes without a socket. The request's Process is nil if the
// question is not about a container.
func ParseQuestion(message []byte) (r Request, err error) {
	err = json.Unmarshal(message, &r)
	switch {
	case err != nil:
		return r, fmt.Errorf("%w: %w", Malformed, err)
	case r.Version != Version:
		return r, fmt.Errorf("%w: the message has version %d, the gate %d", UnknownVersion, r.Version, Version)
	case r == Request{Version: Version, Service: r.Service}, r == Request{Version: Version, Try: r.Try}:
		return r, nil
	case r.Process == nil || r.Listen == "" || r.Token == "":
		return r, errIncomplete
	case !isPrintable(r.Container):
		return r, fmt.Errorf("%w: the container's id is not printable", Malformed)
	}
	return r, nil
}

// isPrintable reports whether an id is safe in a log and in the names of descriptors that a
// service manager keeps, where a colon ends a name.
func isPrintable(id string) bool {
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return 0 < len(id) && len(id) <= 200
}
