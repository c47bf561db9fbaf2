// Package gate serves bare git repositories to containers over HTTP: git's smart
// protocol (gitprotocol-http(5)), versions 0, 1 and 2, to clients that show a token of the
// token file. It promises:
//
//   - A token opens the repository of its project, <project>.git in one directory, and those
//     of the other projects that its entry names, and nothing else.
//   - A token that is revoked, or whose process is dead, opens nothing from that
//     moment; what was begun with it is cut, and a push that git has not agreed to by
//     then moves nothing.
//   - Nothing that a client sends reaches git's arguments or environment, but for the
//     version of the protocol. Answers name no path of this machine.
//   - A client that stalls or goes away costs a process and some memory for a while,
//     never the gate.
//
// The attacker runs in a container, with or without a token. The owner of the
// repositories' directory, and users who may write the token file, are trusted.
//
// A program that serves a gate calls [RunHook] first thing in main: git's hooks are
// links to it. If it does nothing else, it calls [AdoptOrphans] and [SaveMemory] too.
package gate

// The files from top to bottom. Each refers to what stands below it, never above:
//
//   - visit.go: what comes in from clients. (What hooks ask for is in internal/networks.)
//   - describe.go: what doctor is told of gates on other machines.
//   - elsewhere.go: handing a request on to a gate on another machine.
//   - judge.go, vouched.go, disk.go, stream.go, answer.go, filter.go, head.go: the steps of a request.
//   - githook.go, moves.go, keep.go, append.go, push.go: the steps of a push.
//   - gate.go: the gate, which is made of the parts below and which none of them knows.
//   - slots.go, metrics.go, hooks.go: parts that need no other.
//   - enabled.go, cleaning.go: what needs git run.
//   - advertisement.go, git.go, environment.go: running git.
//   - route.go, packet.go: how clients speak.
//   - settings.go, refusal.go, caller.go: settings, refusals, and who is served.
//   - quarantine.go, loose.go, repository.go, move.go: repositories, and what moves there.
