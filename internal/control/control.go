// Package control is how programs on the host talk to the gate: a hook hands it a listener
// in a container's network, and others ask it whom it serves. Here are the messages; the
// gate's side is in package gate.
//
// The gate listens at a unix socket of type SOCK_SEQPACKET. A hook connects, sends one
// message and gets one, and that is all. Each is a JSON object of at most 4 KiB.
//
// Whoever can connect decides who is served as whom, and is trusted: the socket is for the
// gate's user and root.
//
//	{"version": 1, "container": "<id>", "process": {...}, "token": "sha256:<64 hex digits>",
//	 "listen": "127.0.0.1:9418", "withheld": false}
//
// process is as in the token file, and token is the key by which a token file names a
// token without giving it away. With the message comes one TCP socket of the container's
// network namespace (SCM_RIGHTS, unix(7)): it listens at that address, or, where that is
// taken, it is neither bound nor listens and says which namespace is meant.
//
//	{"version": 1}
//	{"version": 1, "refused": "<one of the refusals>", "detail": "<for a log>"}
//
// After a yes the gate serves the container until its process has ended. Yes can be said
// twice: the same message again changes nothing.
//
// Without a socket, the same message asks whether the gate serves the container already,
// and {"version": 1} asks nothing but who is there. The answer to either says so:
//
//	{"version": 1, "refused": "absent", "detail": "...",
//	 "gate": {"program": "<version>", "uid": 998, "token_file": "<path>", "repos": "<path>"}}
//
// A later version of a message has another number; a gate refuses those that it does not
// know. Keys that it does not know it ignores.
package control

import (
	"encoding/json"
	"fmt"

	"terok-gate-hook/store"
)

// Version is that of the messages.
const Version = 1

// MessageLimit is how long a message may be.
const MessageLimit = 4 << 10

// Request asks the gate to serve a container at the socket that comes with it.
type Request struct {
	Version   int            `json:"version"`
	Container string         `json:"container"`
	Process   *store.Process `json:"process"`
	Token     string         `json:"token"` // store.Token.Key
	Listen    string         `json:"listen"`
	Withheld  bool           `json:"withheld"` // the container does not know the token
}

// Answer is the gate's.
type Answer struct {
	Version int     `json:"version"`
	Refused Refusal `json:"refused,omitempty"` // empty for a yes
	Detail  string  `json:"detail,omitempty"`
	Gate    *Gate   `json:"gate,omitempty"` // to a question
}

// Gate is what a gate says of itself.
type Gate struct {
	Program   string `json:"program"` // its version
	UID       int    `json:"uid"`
	TokenFile string `json:"token_file"`
	Repos     string `json:"repos"` // with no symbolic link in it
}

// Refusal is why the gate does not serve a container. It is an error.
type Refusal string

const (
	Taken          Refusal = "taken"   // somebody else listens at the address
	HostNetwork    Refusal = "host"    // the network is the gate's own
	Shared         Refusal = "shared"  // a container that withholds its token is not alone in its network
	Absent         Refusal = "absent"  // the container that is asked for is not served
	UnknownVersion Refusal = "version" // another than the gate's
	Failed         Refusal = "failed"  // the gate cannot
	Malformed      Refusal = "malformed"
)

func (r Refusal) Error() string { return "the gate refuses: " + string(r) }

// Parse reads a request that comes with a socket. An error is a [Refusal], with what is
// wrong in its chain.
func Parse(message []byte) (r Request, err error) {
	if r, err = ParseQuestion(message); err == nil && r.Process == nil {
		err = fmt.Errorf("%w: something is missing", Malformed)
	}
	return r, err
}

// ParseQuestion reads a request that comes without: of a container, or with no process
// if it is not about one.
func ParseQuestion(message []byte) (r Request, err error) {
	err = json.Unmarshal(message, &r)
	switch {
	case err != nil:
		return r, fmt.Errorf("%w: %w", Malformed, err)
	case r.Version != Version:
		return r, fmt.Errorf("%w: %d, and not %d", UnknownVersion, r.Version, Version)
	case r == Request{Version: Version}:
		return r, nil
	case r.Process == nil || r.Listen == "" || r.Token == "":
		return r, fmt.Errorf("%w: something is missing", Malformed)
	case !isPrintable(r.Container):
		return r, fmt.Errorf("%w: the container's id", Malformed)
	}
	return r, nil
}

// isPrintable reports whether an id can be part of a name anywhere: in a log, and among
// the names of descriptors that a service manager keeps, where a colon ends one.
func isPrintable(id string) bool {
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return 0 < len(id) && len(id) <= 200
}
