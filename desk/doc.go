// Package desk moves commits between a forge and the gate's repositories.
//
// The gate has no network and no credentials. So for each project with a source, the
// operator has a desk: a bare repository in which all git runs that needs the operator's
// network, keys or trust. Upstream's refs are in refs/terok/origin, what upstream last had
// and the gate has taken is in refs/terok/last, and what was looked at of the gate's is in
// refs/terok/gate, by object id. A desk that is gone is made anew, and nothing is deleted or
// forced for lack of a record.
//
// The attacker is the gate's user, who may have written anything into the repository that
// the gate serves: configuration, hooks, attributes, alternates, replace refs, names. The
// operator's git never opens that repository. What runs there runs as the gate's user, in a
// session and an environment of its own, and speaks git's protocol to the operator's git.
// Names of the gate's refs are text to the operator's git, never a path and never an
// option. The forge may be hostile, too: what it says during a release is passed on as text that
// a terminal does not act on. Errors and names are the caller's to escape.
//
// Where gate and operator are one user there is no boundary between them. Hooks of the
// repository do not run then either.
//
// Not promised: that a gate that lies about its refs is found out. The commit that
// [Desk.Offer] shows is the one that is pushed all the same.
//
// The files in their order, each of which refers to those above it alone: git.go and
// connect.go run git on both sides, refs.go reads refs, kept.go and gate.go are the gate's
// side, desk.go is the desk itself and elsewhere.go what becomes of it with its project,
// origin.go is upstream, and sources.go what is known of it;
// merge.go decides, and fill.go, sync.go, review.go, release.go, restore.go and who.go are
// the commands' work.
package desk
