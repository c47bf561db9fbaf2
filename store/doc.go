// Package store keeps git-gate tokens in the token file, tokens.json.
//
// The file is shared with programs that are not ours: a Python orchestrator writes it, a gate
// server reads it. The package promises these programs and its callers:
//
//   - The file is one JSON object that maps each token to its grant, in UTF-8, indented by two
//     spaces. Entries and keys that this package does not know are carried over with their
//     meaning intact.
//   - Every change is one read-modify-write under an exclusive flock(2) on "<token file>.lock",
//     and ends in one rename(2), which is the commit. A reader takes no lock and sees a whole old
//     or a whole new file.
//   - Every new version of the file has another modification time than the version before, since
//     the gate server reloads only when the time differs. The time is later, unless the file
//     system cannot store a later one.
//   - A file that is not a JSON object is never replaced and never treated as empty. Every call
//     that reads it returns an error with the path and the byte offset; only [File.SetAside]
//     renames it.
//
// Not promised: locking against programs that do not take the lock, or on network file systems that
// emulate flock(2) badly or not at all.
//
// Projects, tasks and container ids may be chosen by an attacker. The owner of the token file's
// directory is trusted with the tokens, since this user can replace the file anyway. If root works
// in another user's directory, that user cannot make root change anything outside this directory.
//
// Every ancestor of the token file's directory must belong to root or to the directory's owner.
// Another owner of an ancestor could put a symbolic link in the place of the directory.
package store
