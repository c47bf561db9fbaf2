// Package desk moves commits between a forge and the gate's repositories.
//
// The gate has no access to the forge. So for each project with a source, the operator has a desk: a
// bare repository for all of git's work that needs the operator's network, keys or trust. A desk has
// four sets of refs:
//
//   - refs/terok/origin: upstream's refs;
//   - refs/terok/last: for each ref, the value that the gate last took from upstream;
//   - refs/terok/gate: the gate's objects that are to be reviewed or released, each under its id;
//   - refs/terok/kept: old tips that releases replaced.
//
// A desk that is lost is made anew, without the refs in refs/terok/last. Without these, sync deletes and
// forces nothing.
//
// The attacker is the gate's user, who may have written anything into the repository that the gate
// serves: configuration, hooks, attributes, alternates, replace refs, names. The operator's git never
// opens that repository. Another git opens it, as the gate's user, in a session and an environment of
// its own, and speaks git's protocol to the operator's git. To the operator's git, the names of the
// gate's refs are text, never paths or options.
//
// The forge may be hostile, too: its messages during a release are passed on as text that a terminal
// does not act on. The caller must escape errors and names before it prints them.
//
// If the gate and the operator are one user, there is no boundary between them. Even then, the hooks of
// the gate's repository do not run.
//
// Not promised: to detect a gate that lies about its refs. Even if the gate lies, a release pushes
// exactly the commit that was shown.
//
// The files, in the order in which to read them:
//
//   - git.go, connect.go: running git, on both sides.
//   - refs.go: reading refs.
//   - kept.go, gate.go: the gate's side.
//   - desk.go, elsewhere.go: the desk; removing and renaming a desk.
//   - origin.go, sources.go: upstream, and the addresses of all projects' upstreams.
//   - merge.go: what sync does with a ref.
//   - fill.go, sync.go, review.go, release.go, restore.go, who.go: the work of commands.
package desk
