// Reads the token file for a gate or a forwarder: looks up what a token allows, and cancels uses
// that the token no longer allows.

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
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Reader returns what a token allows at the moment of a call, according to the token file and the
// [Freezes]. If the token file is missing or not a JSON object, no token is valid.
//
// Each call checks the token file and the file of freezes, and reads a file again if its device,
// inode, size or times have changed. While a context of [Reader.While] is in use, the Reader
// also checks the files at each tick of watchInterval. A Reader is safe for concurrent use.
type Reader struct {
	path   string
	report func(error)

	mu       sync.Mutex
	seen     FileVersion // the file that was last read
	content  []byte      // nil if the file could not be read
	entries  map[tokenHash]json.RawMessage
	err      error // why the file could not be read
	freezes  freezesFile
	parsed   map[tokenHash]Entry // entries that were looked up since the file was read
	problem  string              // the last problem that was reported
	readAt   time.Time
	relied   map[*reliance]struct{}
	watching bool
}

// tokenHash is the key by which an entry is looked up. How long a look-up by a hash takes reveals
// nothing about the token.
type tokenHash [sha256.Size]byte

// hashedPrefix begins the key of an entry that has a token's SHA-256 in place of the token. A
// client cannot use such a key as a token. The key has a colon, and the user name of HTTP Basic
// authentication has none. Also, the entry is found by the SHA-256 of the token, not of the key.
const hashedPrefix = "sha256:"

// Pass describes a token as it was when it was looked up. [Pass.For] returns what the pass allows.
type Pass struct {
	Grant
	Limits      Limits
	Also        Also
	Container   string
	Fingerprint string
	Process     *Process
	Services    map[string]string // of the host: see [Attached]

	hash    tokenHash
	freezes *Freezes // as they were when the pass was found
}

// reliance is one use of a pass that [Reader.While] watches over.
type reliance struct {
	pass   Pass
	use    Use
	cancel context.CancelCauseFunc
}

// Reader returns a reader of the token file. The reader calls report with an error if that file or
// the freezes cannot be read, and with nil when both can be read again. It does not repeat the last
// error. An error about the freezes wraps [ErrFreezesWrong].
func (f File) Reader(report func(error)) *Reader {
	return &Reader{
		path: f.Path, report: report, relied: map[*reliance]struct{}{},
		freezes: freezesFile{path: f.freezesPath()},
	}
}

// Path returns the path of the token file.
func (r *Reader) Path() string { return r.path }

// Find returns what the token allows now, and false if the token is not valid. A token is not valid
// if its process is proved dead, even if no sweep has revoked it yet. A token with a colon is never
// valid: a token arrives as the user name of HTTP Basic authentication, and a colon ends that name.
func (r *Reader) Find(token string) (Pass, bool) {
	if strings.Contains(token, ":") {
		return Pass{}, false
	}
	return r.find(sha256.Sum256([]byte(token)))
}

// FindKey is Find for a token of which only the key is known ([Token.Key]).
func (r *Reader) FindKey(key string) (Pass, bool) {
	hash, ok := hashOfKey([]byte(key))
	if !ok {
		return Pass{}, false
	}
	return r.find(hash)
}

// Still returns nil if a use that the pass allowed may go on, and otherwise an error with the
// reason. That is [ErrRevoked] for every token that is no longer valid.
func (r *Reader) Still(p Pass, use Use) error {
	now, ok := r.find(p.hash)
	if !ok {
		return ErrRevoked
	}
	return now.stillFor(use, p)
}

func (r *Reader) find(hash tokenHash) (Pass, bool) {
	r.mu.Lock()
	r.look()
	e, ok := r.entry(hash)
	freezes := r.freezes.known
	r.mu.Unlock()
	if !ok {
		return Pass{}, false
	}
	return passOf(hash, e, freezes), e.State().Counts()
}

// entry returns the entry of the token with this hash, if the value is an entry. Its limits may
// still be Malformed. entry parses an entry only once: every request looks up its token's entry,
// and an entry with many projects or patterns takes long to parse.
func (r *Reader) entry(hash tokenHash) (Entry, bool) {
	if e, ok := r.parsed[hash]; ok {
		return e, true
	}
	value, ok := r.entries[hash]
	if !ok {
		return Entry{}, false
	}
	e, ok := entryOf(value)
	if ok {
		r.parsed[hash] = e
	}
	return e, ok
}

// While returns a context for a use that the pass allows. The context is done when ctx is done, or
// when the use may no longer go on; in that case, the context's cause is the reason. The caller
// must call release.
func (r *Reader) While(ctx context.Context, p Pass, use Use) (valid context.Context, release func()) {
	valid, cancel := context.WithCancelCause(ctx)
	forget, _ := p.Process.OnDeath(func() { cancel(ErrDied) }) // on an error, the use goes on until the token is revoked
	one := &reliance{pass: p, use: use, cancel: cancel}

	r.mu.Lock()
	r.relied[one] = struct{}{}
	r.look()
	r.check(one) // the file may have been read again since the pass was found
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

// watchInterval is how long the Reader may take to notice a change. Requests are cut within 100
// ms of the end of their access (SECURITY.md), and after the cut, git needs up to 40 ms to end.
// A shorter interval costs processor time: a tick of a gate that is otherwise idle takes 0.1 to
// 0.3 ms, and a machine may have many gates.
const watchInterval = 40 * time.Millisecond

// watch checks the files while any context of While is in use. It does not use inotify(7), which
// does not report that a directory was replaced or that another machine wrote a file.
func (r *Reader) watch() {
	tick := time.NewTicker(watchInterval)
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

// Freezes returns what is frozen now. The caller must not change it.
func (r *Reader) Freezes() *Freezes {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	return r.freezes.known
}

// Tokens returns how many entries the token file has, and when that file was last read.
func (r *Reader) Tokens() (number int, readAt time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	return len(r.entries), r.readAt
}

// InNetwork returns the entries of the containers whose gate listens in this network namespace
// ([Attached].Network). The entries have keys in place of tokens.
func (r *Reader) InNetwork(cookie uint64) (found []Entry) {
	r.mu.Lock()
	r.look()
	content, entries := r.content, r.entries
	r.mu.Unlock()

	// Most networks have no entry. Only entries that contain the number are parsed, since there may
	// be thousands of entries.
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
		if e := it.entry(); it.isEntry() && e.Gate != nil && e.Gate.Network == cookie {
			found = append(found, e)
		}
	}
	return found
}

// look reads the token file and the freezes again if they have changed. After a change, it checks
// every use in progress.
func (r *Reader) look() {
	tokens, freezes := r.lookTokens(), r.freezes.look()
	if !tokens && !freezes {
		return
	}

	r.reportOnce(errors.Join(r.err, r.freezes.err))
	for one := range r.relied {
		r.check(one)
	}
}

// lookTokens reads the token file, unless it is surely the version that was last read. It reports
// whether the content has changed or cannot be read.
func (r *Reader) lookTokens() (changed bool) {
	if r.seen.Exists() && r.seen.IsAt(r.path, unix.AT_SYMLINK_NOFOLLOW) {
		return false
	}

	r.readAt = time.Now()
	file, err := readTokenFile(r.path)
	r.seen = FileVersionOf(file.stat, r.readAt)
	if err == nil && r.content != nil && bytes.Equal(file.content, r.content) {
		return false
	}

	r.parsed = map[tokenHash]Entry{}
	if r.entries, r.content = nil, nil; err == nil {
		if r.entries, err = hashed(file.content); err == nil {
			r.content = file.content
		} else {
			err = fmt.Errorf("token file %s: %w: %w", r.path, ErrCorrupt, err)
		}
	}
	r.err = err
	return true
}

// check cancels the context of a use if the token file or the freezes no longer allow that use.
func (r *Reader) check(one *reliance) {
	now, ok := r.entry(one.pass.hash)
	if !ok || now.Malformed {
		one.cancel(ErrRevoked)
		return
	}
	if err := passOf(one.pass.hash, now, r.freezes.known).stillFor(one.use, one.pass); err != nil {
		one.cancel(err)
	}
}

// reportOnce reports an error unless it was the last one reported.
func (r *Reader) reportOnce(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != r.problem {
		r.problem = problem
		r.report(err)
	}
}

// readTokenFile reads the token file. If there is none, it returns an error.
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
	for _, m := range x.members { // if a key occurs twice, the last one counts
		if hash, ok := hashOfKey(m.token); ok {
			entries[hash] = content[m.value:m.end]
		}
	}
	return entries, nil
}

// hashOfKey returns the SHA-256 of the token that has this key in the token file. The key is the
// token itself or, after hashedPrefix, the SHA-256. ok is false if the key is neither.
func hashOfKey(key []byte) (hash tokenHash, ok bool) {
	if digits, hashed := bytes.CutPrefix(key, []byte(hashedPrefix)); hashed {
		n, err := hex.Decode(hash[:], digits[:min(len(digits), 2*len(hash))])
		return hash, err == nil && n == len(hash) && bytes.Equal(digits, bytes.ToLower(digits)) && len(digits) == 2*n
	}
	// If an empty token counted, requests without a user name would be accepted.
	return sha256.Sum256(key), len(key) > 0
}

// entryOf parses the value of a member of the token file, and reports whether it is an entry.
func entryOf(value json.RawMessage) (Entry, bool) {
	it := plainItem(value, member{token: []byte{}, end: len(value)})
	return it.entry(), it.isEntry()
}

// passOf returns the pass of an entry. [Entry.State] says whether the pass is valid.
func passOf(hash tokenHash, e Entry, freezes *Freezes) Pass {
	p := Pass{
		Grant: e.Grant, Limits: e.Limits, Also: e.Also, Container: e.Container, Process: e.Process,
		Fingerprint: hex.EncodeToString(hash[:4]), hash: hash, freezes: freezes,
	}
	if e.Gate != nil {
		p.Services = e.Gate.Services
	}
	return p
}
