// What a gate asks of the token file: what a token allows now, and for how long.

package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Why a token that was valid is not any more ([context.Cause] of [Reader.While]).
var (
	ErrRevoked = errors.New("the token was revoked")
	ErrDied    = errors.New("the process that the token was for has ended")
)

// Reader answers what a token allows, as the token file says at that moment. A file
// that is missing or not a JSON object allows nobody anything.
//
// It looks at the file whenever it is asked, and reads it anew if it is another one:
// by device, inode, size and times. While somebody relies on an answer, it looks a
// hundred times a second. It may be used by many goroutines.
type Reader struct {
	path   string
	report func(error)

	mu       sync.Mutex
	seen     *unix.Stat_t // the file that was read
	unsure   bool         // it might have changed without its times showing it
	content  []byte       // nil if it could not be read
	entries  map[tokenHash]json.RawMessage
	problem  string // that was reported last
	readAt   time.Time
	relied   map[*reliance]struct{}
	watching bool
}

// tokenHash finds an entry: the time that a look-up takes tells nothing of a token.
type tokenHash [sha256.Size]byte

// hashedPrefix begins the key of an entry that holds a token's SHA-256 in the token's
// place. The key, shown as a token, opens nothing: a Basic user name has no colon, and
// the SHA-256 of the key is another one.
const hashedPrefix = "sha256:"

// Pass is what a token allows: an entry that counts.
type Pass struct {
	Grant
	Limits
	Container   string
	Fingerprint string
	Process     *Process

	hash tokenHash
}

// reliance is somebody who relies on a pass.
type reliance struct {
	pass   Pass
	cancel context.CancelCauseFunc
}

// Reader returns a reader of the token file. It tells report why the file cannot be
// read, the same reason once, and nil when it can be read again.
func (f File) Reader(report func(error)) *Reader {
	return &Reader{path: f.Path, report: report, relied: map[*reliance]struct{}{}}
}

// Path is that of the token file.
func (r *Reader) Path() string { return r.path }

// Find returns what the token allows now. A token whose process is provably dead
// allows nothing, whether or not anybody has swept it. Nor does one with a colon, which
// ends a Basic user name.
func (r *Reader) Find(token string) (Pass, bool) {
	if strings.Contains(token, ":") {
		return Pass{}, false
	}
	return r.find(sha256.Sum256([]byte(token)))
}

// FindKey is Find for whoever does not know the token, but its key ([Token.Key]).
func (r *Reader) FindKey(key string) (Pass, bool) {
	hash, ok := hashOfKey([]byte(key))
	if !ok {
		return Pass{}, false
	}
	return r.find(hash)
}

// Still reports whether the pass still counts, unchanged.
func (r *Reader) Still(p Pass) bool {
	now, ok := r.find(p.hash)
	return ok && reflect.DeepEqual(now, p)
}

func (r *Reader) find(hash tokenHash) (Pass, bool) {
	r.mu.Lock()
	r.look()
	value, ok := r.entries[hash]
	r.mu.Unlock()
	if !ok {
		return Pass{}, false
	}
	e, ok := entryOf(value)
	return passOf(hash, e), ok && e.State().Counts()
}

// While returns a context that is done when the pass does not count any more, with
// [ErrRevoked] or [ErrDied] as its cause, or when ctx is. release ends it.
func (r *Reader) While(ctx context.Context, p Pass) (valid context.Context, release func()) {
	valid, cancel := context.WithCancelCause(ctx)
	forget, _ := p.Process.OnDeath(func() { cancel(ErrDied) }) // what cannot be watched is revoked
	one := &reliance{pass: p, cancel: cancel}
	r.mu.Lock()
	r.relied[one] = struct{}{}
	r.look()
	r.check(one) // the file may have been read anew since the pass was found
	if !r.watching {
		r.watching = true
		go r.watch()
	}
	r.mu.Unlock()
	return valid, func() {
		r.mu.Lock()
		delete(r.relied, one)
		r.mu.Unlock()
		forget()
		cancel(nil)
	}
}

// watch looks at the file for as long as somebody relies on it. It does not wait for
// inotify(7), which tells nothing of a directory that is replaced, or of another machine's
// writes.
func (r *Reader) watch() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		r.mu.Lock()
		r.look()
		r.watching = len(r.relied) > 0
		goOn := r.watching
		r.mu.Unlock()
		if !goOn {
			return
		}
	}
}

// Tokens returns how many entries the file has, and when it was last read.
func (r *Reader) Tokens() (number int, readAt time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	return len(r.entries), r.readAt
}

// InNetwork returns the entries of the containers that have the gate in a network
// namespace ([Attached].Network), with the keys of their tokens.
func (r *Reader) InNetwork(cookie uint64) (found []Entry) {
	r.mu.Lock()
	r.look()
	content, entries := r.content, r.entries
	r.mu.Unlock()
	// Of most networks there is nothing, and of thousands of entries few need be parsed.
	number := strconv.AppendUint(nil, cookie, 10)
	if cookie == 0 || !bytes.Contains(content, number) {
		return nil
	}
	for hash, value := range entries {
		if !bytes.Contains(value, number) {
			continue
		}
		key := hashedPrefix + hex.EncodeToString(hash[:])
		it := plainItem(value, member{token: []byte(key), end: len(value)})
		if e := it.entry(); it.wellFormed() && e.Gate != nil && e.Gate.Network == cookie {
			found = append(found, e)
		}
	}
	return found
}

// look reads the file if it is not the one that was read last.
func (r *Reader) look() {
	var now unix.Stat_t
	if r.seen != nil && !r.unsure && unix.Lstat(r.path, &now) == nil && sameVersion(&now, r.seen) {
		return
	}
	r.readAt = time.Now()
	file, err := readTokenFile(r.path)
	r.seen = file.stat
	// Linux before 6.13 stamps files with the clock of its last tick.
	r.unsure = r.seen != nil && r.readAt.Sub(time.Unix(r.seen.Mtim.Unix())).Abs() < 20*time.Millisecond
	if err == nil && r.content != nil && bytes.Equal(file.content, r.content) {
		return
	}
	if r.entries, r.content = nil, nil; err == nil {
		if r.entries, err = hashed(file.content); err == nil {
			r.content = file.content
		} else {
			err = fmt.Errorf("token file %s: %w: %w", r.path, ErrCorrupt, err)
		}
	}
	r.tell(err)
	for one := range r.relied {
		r.check(one)
	}
}

// check ends a reliance on what the file does not say any more.
func (r *Reader) check(one *reliance) {
	value, ok := r.entries[one.pass.hash]
	if ok {
		var now Entry
		now, ok = entryOf(value)
		ok = ok && !now.Malformed && reflect.DeepEqual(passOf(one.pass.hash, now), one.pass)
	}
	if !ok {
		one.cancel(ErrRevoked)
	}
}

// tell reports what it has not reported yet.
func (r *Reader) tell(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != r.problem {
		r.problem = problem
		r.report(err)
	}
}

// sameVersion reports whether the token file is still the one that was read.
func sameVersion(a, b *unix.Stat_t) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim
}

// readTokenFile reads the token file, which must be there.
func readTokenFile(path string) (tokenFile, error) {
	dir, name := split(path)
	directory, err := openDirectory(dir)
	if err != nil {
		return tokenFile{}, err
	}
	defer directory.close()
	file, err := directory.read(name)
	if err == nil && file.stat == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return tokenFile{}, fmt.Errorf("token file %s: %w", path, err)
	}
	return file, nil
}

// hashed returns the entries of a token file by the SHA-256 of their tokens.
func hashed(content []byte) (map[tokenHash]json.RawMessage, error) {
	x, err := scan(content, func() func(*item) { return func(*item) {} })
	if err != nil {
		return nil, err
	}
	entries := make(map[tokenHash]json.RawMessage, len(x.members))
	for _, m := range x.members { // of a key that comes twice, the last one counts
		if hash, ok := hashOfKey(m.token); ok {
			entries[hash] = content[m.value:m.end]
		}
	}
	return entries, nil
}

// hashOfKey returns the SHA-256 of the token that a key of the token file is, or
// stands for.
func hashOfKey(key []byte) (hash tokenHash, ok bool) {
	if digits, hashed := bytes.CutPrefix(key, []byte(hashedPrefix)); hashed {
		n, err := hex.Decode(hash[:], digits[:min(len(digits), 2*len(hash))])
		return hash, err == nil && n == len(hash) && bytes.Equal(digits, bytes.ToLower(digits)) && len(digits) == 2*n
	}
	// An empty one would open the gate to whoever names no user.
	return sha256.Sum256(key), len(key) > 0
}

// entryOf reads an entry, if it is well formed.
func entryOf(value json.RawMessage) (Entry, bool) {
	it := plainItem(value, member{token: []byte{}, end: len(value)})
	return it.entry(), it.wellFormed()
}

// passOf is what an entry allows, if it counts.
func passOf(hash tokenHash, e Entry) Pass {
	return Pass{
		Grant: e.Grant, Limits: e.Limits, Container: e.Container, Process: e.Process,
		Fingerprint: hex.EncodeToString(hash[:4]), hash: hash,
	}
}
