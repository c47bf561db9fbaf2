// Defines tokens and grants, and checks them before they are issued: the form of the token, and the
// names of the project and the task.

package store

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Token is a secret: "terok-g-" and 32 lower-case hex digits, 128 bits from the system's random
// source. Package fmt shows only its fingerprint; string(token) is the secret itself.
type Token string

const tokenPrefix = "terok-g-"

// NewToken generates a token. It is not valid until it is issued.
func NewToken() (Token, error) {
	var bits [16]byte
	if _, err := rand.Read(bits[:]); err != nil {
		return "", fmt.Errorf("generate a token: %w", err)
	}
	return Token(tokenPrefix + hex.EncodeToString(bits[:])), nil
}

// check returns an error if the token must not be issued. For example, a request has its token as
// the user name, so an empty token would open the gate to requests without a user name.
func (t Token) check() error {
	if t.isKey() {
		return nil
	}
	digits, ok := strings.CutPrefix(string(t), tokenPrefix)
	if !ok || len(digits) != 32 || !isHex(digits) {
		return fmt.Errorf("token %s is refused: it is not %q and 32 lower-case hex digits", t, tokenPrefix)
	}
	return nil
}

// Fingerprint identifies the token without revealing it: it returns the first 8 hex digits of the
// SHA-256. The key of a token has the same fingerprint.
func (t Token) Fingerprint() string {
	return t.Key()[len(hashedPrefix):][:8]
}

// IsFingerprint reports whether the text has the form of a token's fingerprint.
func IsFingerprint(text string) bool { return len(text) == 8 && isHex(text) }

// Key returns the token's SHA-256, in the form in which the token file can hold it in place of the
// token. If t is a key already, Key returns t unchanged.
func (t Token) Key() string {
	if t.isKey() {
		return string(t)
	}
	return t.hash()
}

// hash returns the key of a token, even if the token looks like a key itself.
func (t Token) hash() string {
	sum := sha256.Sum256([]byte(t))
	return hashedPrefix + hex.EncodeToString(sum[:])
}

// isKey reports whether this is a key in place of a token.
func (t Token) isKey() bool {
	digits, ok := strings.CutPrefix(string(t), hashedPrefix)
	return ok && len(digits) == 2*sha256.Size && isHex(digits)
}

// isHex reports whether the string has only lower-case hex digits.
func isHex(digits string) bool { return strings.Trim(digits, "0123456789abcdef") == "" }

// String returns the fingerprint, so that no log or error shows a token by mistake.
func (t Token) String() string { return t.Fingerprint() }

// GoString returns the fingerprint too.
func (t Token) GoString() string { return t.Fingerprint() }

// Grant names the project and the task that a token is for.
type Grant struct {
	Project string
	Task    string
}

// Check returns an error if the grant must not be issued. A container's annotations choose project
// and task, which end up in URLs, an env file and a shell. So both must match
// [A-Za-z0-9][A-Za-z0-9._-]{0,127}. A project "*" would open every repository.
func (g Grant) Check() error {
	if err := CheckName(g.Project); err != nil {
		return fmt.Errorf("project %w", err)
	}
	if err := CheckName(g.Task); err != nil {
		return fmt.Errorf("task %w", err)
	}
	return nil
}

// LongestName is the largest length of a project or task, in bytes.
const LongestName = 128

// CheckName returns an error if a project or task must not have this name. Its errors quote the
// name safely, cut to a length that fits a log line.
func CheckName(s string) error {
	switch {
	case isName(s):
		return nil
	case s == "":
		return fmt.Errorf("%q is refused: it is empty", s)
	case len(s) > LongestName:
		return fmt.Errorf("%.32q... is refused: longer than %d bytes", s, LongestName)
	}
	return fmt.Errorf("%q is refused: use letters, digits, '.', '_' and '-', a letter or digit first", s)
}

// isName reports whether a project or task may have this name.
func isName[S string | []byte](s S) bool {
	for i := range len(s) {
		c := s[i]
		if !isPlain(rune(c)) && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= LongestName
}

// MatchesOne reports whether a project's name matches one of the shell patterns ([path.Match]). A
// malformed pattern matches nothing.
func MatchesOne(patterns []string, project string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		matches, _ := path.Match(pattern, project)
		return matches
	})
}
