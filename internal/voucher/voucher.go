// Package voucher defines vouchers. With a voucher, the gate on a container's host tells the gate
// with the repositories which container sends a request, and what that container may do in one
// project. A voucher never contains a token.
//
// A voucher travels in a header of the request, as base64url of a JSON object. It proves nothing by
// itself: the certificate of the connection proves which host the voucher comes from, and [Hosts]
// says for which projects that host may vouch. Each voucher has only one valid form: an unknown or
// repeated key is refused, and so is a header that occurs twice.
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

// Voucher is what a host vouches for: that one container sends a request for one project.
type Voucher struct {
	Project     string     `json:"project"`
	Task        string     `json:"task"`
	Container   string     `json:"container,omitempty"` // empty if the token belongs to none
	Fingerprint string     `json:"fingerprint"`
	Access      string     `json:"access"`
	Push        [][]string `json:"push,omitempty"` // as in [store.Limits]
}

// errVoucher is the error for every voucher that is refused, since the peer must not learn more.
var errVoucher = errors.New("voucher is malformed")

// Limits returns what the voucher allows in its project.
func (v Voucher) Limits() store.Limits {
	limits := store.Limits{Push: v.Push}
	limits.SetAccess(v.Access)
	return limits
}

// Set puts the voucher into the header, in the place of any other. If [From] would refuse the
// voucher, Set returns an error, and leaves the header without a voucher.
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

// parse returns the voucher that a text encodes. Any text but the one that encode returns is an
// error.
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

// check returns an error for a voucher that is wrong, whichever host it comes from.
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
