// The refusals of requests, and how they are written.

package gate

import (
	"fmt"
	"net/http"
	"time"
)

// refusal is an answer other than what was asked for. git shows its text to its user, as
// "remote: …": it names nothing that the client does not know.
type refusal struct {
	code   int
	text   string
	header [2]string // one more header, if it has a name
}

// Refusals that need no details of the request.
var (
	notFound     = &refusal{code: http.StatusNotFound, text: "not found"}
	misdirected  = &refusal{code: http.StatusMisdirectedRequest, text: "this gate has another name: see --host of terok-gate serve"}
	wrongType    = &refusal{code: http.StatusUnsupportedMediaType, text: "not a request of git's"}
	unauthorized = &refusal{code: http.StatusUnauthorized, text: "no token was shown: in a container, first have git read its own, by: set -a; . /run/terok/gate.env", header: [2]string{"WWW-Authenticate", `Basic realm="terok gate"`}}
	forbidden    = &refusal{code: http.StatusForbidden, text: "the token is not valid: it was revoked, or its container has ended"}
	notTheirs    = &refusal{code: http.StatusForbidden, text: "the token is for another project"}
	readOnly     = &refusal{code: http.StatusForbidden, text: "the token may fetch and not push"}
	readOnlyHere = &refusal{code: http.StatusForbidden, text: "the token may fetch from this project and not push to it"}
	malformed    = &refusal{code: http.StatusBadRequest, text: "not a request of git's: malformed"}
	incomplete   = &refusal{code: http.StatusBadRequest, text: "the request ended early"}
	tooLarge     = &refusal{code: http.StatusRequestEntityTooLarge, text: "the request is too large"}
	failed       = &refusal{code: http.StatusInternalServerError, text: "the gate failed: its log says why"}
	stopping     = &refusal{code: http.StatusServiceUnavailable, text: "the gate stops"}
)

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
