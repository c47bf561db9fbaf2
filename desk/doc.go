// Package desk moves commits between a forge and the gate's repositories.
//
// The gate has no network and no credentials. So for each project with a source, the
// operator has a desk: a bare repository for all of git's work that needs the operator's
// network, keys or trust. It has three sets of refs:
//
//   - refs/terok/origin: upstream's refs;
//   - refs/terok/last: for each ref, the value of upstream's that the gate took last;
//   - refs/terok/gate: commits of the gate's that were reviewed, by object id.
//
// A desk that is gone is made anew. The record in refs/terok/last is lost with it, and sync
// deletes and forces nothing without that record.
//
// The attacker is the gate's user, who may have written anything into the repository that
// the gate serves: configuration, hooks, attributes, alternates, replace refs, names. The
// operator's git never opens that repository. What runs there runs as the gate's user, in a
// session and an environment of its own, and speaks git's protocol to the operator's git.
// Names of the gate's refs are text to the operator's git, never a path and never an
// option. The forge may be hostile, too: its messages during a release are passed on as text
// that a terminal does not act on. The caller must escape errors and names before it prints them.
//
// If the gate and the operator are one user, there is no boundary between them. Even then, the
// repository's hooks do not run.
//
// Not promised: to detect a gate that lies about its refs. Even so, the commit that
// [Desk.Offer] shows is the one that is pushed.
//
// The files in their order; each refers only to those above it:
//
//   - git.go, connect.go: running git, on both sides.
//   - refs.go: reading refs.
//   - kept.go, gate.go: the gate's side.
//   - desk.go, elsewhere.go: the desk, and its removing and renaming.
//   - origin.go, sources.go: upstream, and the addresses of all projects' upstreams.
//   - merge.go: what sync does with a ref.
//   - fill.go, sync.go, review.go, release.go, restore.go, who.go: the work of commands.
package desk
