// Package gate serves bare git repositories to containers over HTTP: git's smart
// protocol (gitprotocol-http(5)), versions 0, 1 and 2, to clients that show a token of the
// token file. It promises:
//
//   - A token opens the repository of its project, <project>.git in one directory, and those
//     of the other projects that its entry names, and nothing else.
//   - A token that is revoked, or whose process is dead, opens nothing from that
//     moment. Its requests in progress are cut, and its pushes move nothing, unless git
//     has been allowed to move their refs by then.
//   - Nothing that a client sends reaches git's arguments or environment, but for the
//     version of the protocol. Answers name no path of this machine.
//   - A client that stalls or goes away costs a process and some memory for a while,
//     never the gate.
//
// The attacker runs in a container, with or without a token. The owner of the
// repositories' directory, and users who may write the token file, are trusted.
//
// A program that serves a gate calls [RunHook] first thing in main, since git's hooks are
// links to that program. A program that does nothing else also calls [AdoptOrphans] and
// [SaveMemory].
package gate

// The files from top to bottom. Each uses what the files below it define, never those above:
//
//   - visit.go: requests of clients. (Requests of hooks are in internal/networks.)
//   - describe.go: what the gate tells doctor about its part among gates on several machines.
//   - elsewhere.go: handing a request on to a gate on another machine.
//   - judge.go, vouched.go, disk.go, stream.go, answer.go, filter.go, head.go: the steps of a request.
//   - githook.go, moves.go, keep.go, append.go, push.go: the steps of a push.
//   - gate.go: the gate, which is made of the parts below. None of them uses it.
//   - slots.go, metrics.go, hooks.go: parts that need no other part.
//   - enabled.go, cleaning.go: parts that run git.
//   - advertisement.go, git.go, environment.go: running git.
//   - route.go, packet.go: the protocol that clients speak.
//   - settings.go, refusal.go, caller.go: settings, refusals, and callers.
//   - quarantine.go, loose.go, repository.go, move.go: repositories, and moves of their refs.
