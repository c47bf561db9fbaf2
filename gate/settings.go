// Defines the settings of a gate, and their defaults.

package gate

import (
	"time"

	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/networks"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

// Settings configure a gate. The zero value of a limit stands for its default.
type Settings struct {
	Repos  string        // the directory of <project>.git; not used if there is a RepositoryGate
	Tokens *store.Reader // the valid tokens
	Hosts  []string      // names of the gate, besides addresses and localhost

	PerToken int   // requests at once of one token
	Together int   // requests at once of all tokens
	MaxPush  int64 // bytes of a push's pack
	Free     int64 // bytes that must be free on a repository's disk before a push; negative for no limit

	GitMemory int64 // bytes of memory that each process of git's may have

	Keep time.Duration // how long old tips of deleted and forced refs are kept; default [desk.KeepFor]

	Patience time.Duration // how long a request waits for a slot before it is refused; default five minutes
	Stall    time.Duration // how long a client may neither read nor send anything; default two minutes

	// Trail gets every event. Many goroutines may call it at once. If it returns an error for the
	// events "moving" of a push, the push is refused.
	Trail func(...trail.Event) error

	// RepositoryGate is the gate with the repositories, on another machine. It is empty if this
	// gate has the repositories.
	RepositoryGate mtls.URL
	// Identity identifies this gate to gates on other machines, and checks their identities.
	Identity *mtls.Identity
	// Vouching are the hosts whose gates [Gate.ServeHosts] serves.
	Vouching *voucher.Hosts

	// Keeper keeps what the next gate needs to go on in containers' networks; nil for none.
	Keeper networks.Keeper
}

// The defaults of limits in Settings.
const (
	DefaultPerToken = 8
	DefaultTogether = 64
	DefaultMaxPush  = 2 << 30

	DefaultGitMemory = 1 << 30
)

const (
	maxFetch = 32 << 20 // bytes of a request to upload-pack, unpacked

	defaultStall = 2 * time.Minute
	// defaultPatience is longer than defaultStall, so that stalled requests are ended before the
	// requests that wait for their slots are refused. It is also long enough for a rush: git does
	// not try again after a refusal.
	defaultPatience = 5 * time.Minute

	headerTimeout = 10 * time.Second
	idleTimeout   = time.Minute
	headerLimit   = 16 << 10
	connections   = 1024 // at once, of each listener that is not in a container's network

	hostHeaderLimit = 64 << 10 // for requests of another gate, which have a voucher

	logInterval = time.Minute // between two log lines about one kind of error that clients can cause
)
