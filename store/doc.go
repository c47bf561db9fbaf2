// Package store keeps git-gate tokens in the token file, tokens.json.
//
// The file is shared with programs that are not ours: a Python orchestrator
// writes it, a gate server reads it. What the package promises them and its
// callers:
//
//   - The file is one JSON object that maps each token to its grant, in UTF-8,
//     indented by two spaces. Entries and keys that this package does not know
//     are carried over with their meaning intact.
//   - Every change is one read-modify-write under an exclusive flock(2) on
//     "<token file>.lock", and ends in one rename(2), which is the commit.
//     A reader takes no lock and sees a whole old or a whole new file.
//   - Every replacement has a later modification time than the file it replaces,
//     since the gate server reloads only when the time differs.
//   - A file that is not a JSON object is never replaced and never treated as
//     empty: every call fails, naming path and byte offset.
//
// Not promised: locking against programs that do not take the lock, or over
// network file systems that emulate flock(2) badly or not at all.
//
// The attacker chooses projects, tasks and container ids. The owner of the token file's
// directory is trusted, since they can replace the file anyway. Root may still work in
// another user's directory: nothing outside it is changed. The directories above it must
// belong to root: the owner of one of them can replace the directory with a symbolic link.
package store
