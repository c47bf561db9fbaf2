// Defines and writes the answers to requests that the gate refuses. git itself refuses most pushes
// that are too large: the limit is in environment.go.

package gate

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"terok-gate-hook/store"
)

// refusal is the answer to a request that is refused. git shows the text to its user, as "remote:
// …", so the text contains nothing that the client must not know.
type refusal struct {
	code   int
	text   string
	header [2]string // name and value of one more header; the name is empty if there is none
}

// These refusals are the same for every request.
var (
	notFound     = &refusal{code: http.StatusNotFound, text: "not found"}
	misdirected  = &refusal{code: http.StatusMisdirectedRequest, text: "this gate has another name: see --host of terok-gate serve"}
	wrongType    = &refusal{code: http.StatusUnsupportedMediaType, text: "not a request of git's"}
	unauthorized = &refusal{code: http.StatusUnauthorized, text: "no token was shown: in a container, first give git the container's token, by: set -a; . /run/terok/gate.env", header: [2]string{"WWW-Authenticate", `Basic realm="terok gate"`}}
	forbidden    = &refusal{code: http.StatusForbidden, text: "the token is not valid: it was revoked, or its container has ended"}
	notTheirs    = refusalOf(store.ErrNotTheirs)
	malformed    = &refusal{code: http.StatusBadRequest, text: "not a request of git's: malformed"}
	incomplete   = &refusal{code: http.StatusBadRequest, text: "the request ended early"}
	tooLarge     = &refusal{code: http.StatusRequestEntityTooLarge, text: "the request is too large"}
	failed       = &refusal{code: http.StatusInternalServerError, text: "the gate failed: its log says why"}
	stopping     = &refusal{code: http.StatusServiceUnavailable, text: "the gate is stopping"}
)

// endsOfUse are the reasons why a token may not be used, or may no longer be used, and why a host
// may not vouch.
var endsOfUse = []error{
	store.ErrFrozen, store.ErrFreezesWrong, store.ErrNotTheirs, store.ErrReadOnly, store.ErrReadOnlyHere,
	store.ErrRevoked, store.ErrDied, store.ErrChanged, errNotVouched, errCertificateEnded,
}

// endOfUse returns the error in [endsOfUse] that err wraps, or nil.
func endOfUse(err error) error {
	for _, end := range endsOfUse {
		if errors.Is(err, end) {
			return end
		}
	}
	return nil
}

// refusalOf returns the refusal of a request, for a reason in [endsOfUse].
func refusalOf(end error) *refusal {
	if end == store.ErrRevoked || end == store.ErrDied {
		return forbidden
	}
	return &refusal{code: http.StatusForbidden, text: end.Error()}
}

func wrongMethod(right string) *refusal {
	return &refusal{code: http.StatusMethodNotAllowed, text: "method not allowed", header: [2]string{"Allow", right}}
}

func tooLargePush(limit int64) *refusal {
	return &refusal{code: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("the push is larger than %d MiB", limit>>20)}
}

func busy(retryAfter time.Duration) *refusal {
	return &refusal{
		code: http.StatusTooManyRequests, text: "too many requests at once",
		header: [2]string{"Retry-After", fmt.Sprintf("%.0f", retryAfter.Seconds())},
	}
}

func (f *refusal) Error() string { return f.text }

// write answers with the refusal.
func (f *refusal) write(w http.ResponseWriter) {
	if f.header[0] != "" {
		w.Header().Set(f.header[0], f.header[1])
	}
	w.Header().Set("Cache-Control", "no-cache")
	http.Error(w, f.text, f.code)
}
