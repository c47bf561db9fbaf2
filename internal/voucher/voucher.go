// Package voucher is how the gate on a container's host tells the gate with the repositories who
// sends a request and what it may do in one project. A voucher never contains a token.
//
// It travels in a header of the request, as base64url of a JSON object. It proves nothing by
// itself: the certificate of the connection proves which host it comes from, and [Hosts] says for
// which projects that host may vouch. A voucher has one form. Any other form, an unknown or
// repeated key, and a header that occurs twice are refused.
package voucher

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"

	"terok-gate-hook/store"
)

// Header is the name of the header, in its canonical form.
const Header = "Terok-Gate-Voucher"

// Longest is the largest length of an encoded voucher, in bytes.
const Longest = 48 << 10 // two full lists of patterns take 17 KiB

// Voucher is what a host vouches for: one request of one container, for one project.
type Voucher struct {
	Project     string     `json:"project"`
	Task        string     `json:"task"`
	Container   string     `json:"container,omitempty"` // empty if the token belongs to none
	Fingerprint string     `json:"fingerprint"`
	Access      string     `json:"access"`
	Push        [][]string `json:"push,omitempty"` // as [store.Limits]
}

// errVoucher is the error for every voucher that is refused: the peer is told no more.
var errVoucher = errors.New("voucher is malformed")

// Limits returns what the voucher allows in its project.
func (v Voucher) Limits() store.Limits {
	limits := store.Limits{Push: v.Push}
	limits.SetAccess(v.Access)
	return limits
}

// Set puts the voucher into the header in the place of any that is there. It returns an error,
// and leaves no voucher, if [From] would refuse it.
func (v Voucher) Set(header http.Header) error {
	header.Del(Header)
	text, err := v.encode()
	if err != nil {
		return err
	}
	if _, err := parse(text); err != nil {
		return err
	}
	header.Set(Header, text)
	return nil
}

// From returns the voucher of a header.
func From(header http.Header) (Voucher, error) {
	values := header.Values(Header)
	if len(values) != 1 {
		return Voucher{}, errVoucher
	}
	return parse(values[0])
}

func (v Voucher) encode() (string, error) {
	data, err := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(data), err
}

// parse returns the voucher that a text encodes, if the text is its one form.
func parse(text string) (Voucher, error) {
	if len(text) > Longest {
		return Voucher{}, errVoucher
	}
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return Voucher{}, errVoucher
	}

	var v Voucher
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&v); err != nil {
		return Voucher{}, errVoucher
	}
	if again, err := v.encode(); err != nil || again != text {
		return Voucher{}, errVoucher
	}
	if v.check() != nil {
		return Voucher{}, errVoucher
	}
	return v, nil
}

// check reports why a voucher must not be believed from any host.
func (v Voucher) check() error {
	if err := (store.Grant{Project: v.Project, Task: v.Task}).Check(); err != nil {
		return err
	}

	if !new(store.Limits).SetAccess(v.Access) {
		return errVoucher
	}
	if v.Container != "" && store.CheckName(v.Container) != nil {
		return errVoucher
	}
	if !store.IsFingerprint(v.Fingerprint) {
		return errVoucher
	}
	return nil
}
