// Package gate serves bare git repositories to containers by git's smart HTTP protocol
// (gitprotocol-http(5)), versions 0, 1 and 2. It accepts the tokens of the token file. It promises:
//
//   - A token opens the repository of its project, <project>.git, and the repositories of the other
//     projects that its entry names. It opens nothing else.
//   - A token that is revoked, or whose process has ended, opens nothing from that moment. Its
//     requests in progress are cut. Its pushes move no refs, except those that the gate has already
//     allowed git to move.
//   - Git's arguments and environment contain only this of what a client sends: the project, the
//     version of the protocol, and the object ids and ref names of a push. Answers name no path of
//     this machine.
//   - A client that stalls or goes away occupies git processes and some memory for a limited time.
//     It does not stop the gate.
//
// The attacker runs in a container, with or without a token. The owner of the directory of
// repositories and the users who may write the token file are trusted.
//
// A program that serves a gate calls [RunHook] first in main, since git's hooks are links to that
// program. A program that does nothing but serve a gate also calls [AdoptOrphans] and [SaveMemory].
package gate

// The files, from a client's request down to the repositories:
//
//   - visit.go: requests of clients. (internal/networks answers the OCI hooks.)
//   - describe.go: what the gate tells doctor about its work with gates on other machines.
//   - elsewhere.go: handing a request on to a gate on another machine.
//   - judge.go, vouched.go, disk.go, stream.go, answer.go, filter.go, head.go: the steps of a request.
//   - githook.go, moves.go, keep.go, append.go, push.go: the steps of a push.
//   - gate.go: the gate. The files below do not use it.
//   - slots.go, metrics.go, hooks.go: limits on requests, metrics, and the directory of git's
//     hooks.
//   - enabled.go, cleaning.go: services that a repository disables, and cleaning up after pushes.
//   - advertisement.go, git.go, environment.go: running git.
//   - route.go, packet.go: the protocol that clients speak.
//   - settings.go, refusal.go, caller.go: settings, refusals, and callers.
//   - quarantine.go, loose.go, repository.go, move.go: repositories, and moves of their refs.
