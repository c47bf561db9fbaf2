// Defines how a gate describes its part among gates on several machines.

package control

import "time"

// Fleet is a gate's description of what it needs to work with gates on other machines.
type Fleet struct {
	Name        string   `json:"name"` // in its certificate
	Certificate Validity `json:"certificate"`
	Authority   Validity `json:"authority"`         // when all certificates that sign Certificate are valid
	Problem     string   `json:"problem,omitempty"` // why other gates refuse its certificate

	Listens bool     `json:"listens,omitempty"` // it has repositories, and serves gates of hosts
	Hosts   []string `json:"hosts,omitempty"`   // the first hosts that may vouch (package voucher)
	More    int      `json:"more,omitempty"`    // how many further hosts may vouch
	Fault   string   `json:"fault,omitempty"`   // why no host of --vouch-file may vouch; empty if the file is in order

	Tried *Tried `json:"tried,omitempty"` // the answer to Request.Try
}

// Validity is the time in which a certificate is valid.
type Validity struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Tried is the result of trying the gate that has the repositories.
type Tried struct {
	Address     string        `json:"address"`
	Fault       Fault         `json:"fault,omitempty"` // empty for none
	Detail      string        `json:"detail,omitempty"`
	Certificate Validity      `json:"certificate"` // the other gate's, if it was accepted
	Ahead       time.Duration `json:"ahead"`       // how far the other gate's clock is ahead of ours
}

// Fault is why a gate is not served by the gate with the repositories.
type Fault string

const (
	NoName      Fault = "name"         // the other machine's name cannot be resolved
	NotThere    Fault = "not-there"    // nothing listens at the address
	Unreachable Fault = "unreachable"  // nothing answers at the address
	Stranger    Fault = "stranger"     // this gate does not accept the other's certificate
	NotKnown    Fault = "not-known"    // the other gate does not accept this gate's certificate
	NotVouching Fault = "not-vouching" // the other gate does not let this host vouch for the project
	NoProject   Fault = "no-project"   // the other gate has no such repository
	Refused     Fault = "refused"      // the other gate refuses for another reason
)
