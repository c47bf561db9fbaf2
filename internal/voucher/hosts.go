// Decides which host may vouch for which projects.

package voucher

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"terok-gate-hook/internal/follow"
	"terok-gate-hook/store"
)

// Hosts are the hosts that may vouch, each for the projects that match one of its patterns
// (path.Match). Some come from flags; others are in a file, which is read again when it changes.
// While the file cannot be read, or has a malformed line, none of its lines counts.
type Hosts struct {
	added rules

	mu     sync.Mutex
	file   *follow.File // nil for none
	inFile rules
	wrong  error // why the file's hosts may not vouch; nil if they may
}

// Rules say which hosts may vouch at one moment.
type Rules struct{ added, inFile rules }

// rules are patterns of projects by host. When the file changes, its rules become a new map, since
// a [Rules] may still have the old map.
type rules map[string][]string

// NewHosts returns the hosts of flags and of the file at a path, which is empty for none. Each flag
// is HOST=PATTERN, and so is each line of the file, except empty lines and those that begin with #.
func NewHosts(flags []string, file string) (*Hosts, error) {
	h := &Hosts{added: rules{}}
	for _, flag := range flags {
		if err := h.added.add(flag); err != nil {
			return nil, fmt.Errorf("%q: %w", flag, err)
		}
	}
	if file != "" {
		h.file = &follow.File{Path: file}
		if err := h.look(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// look reads the file if it has changed. It returns why the file's hosts may not vouch, or nil.
func (h *Hosts) look() error {
	if h.file == nil {
		return nil
	}
	if content, changed, err := h.file.Read(); changed {
		h.inFile, h.wrong = rules{}, err
		if err == nil {
			h.inFile, h.wrong = h.parse(content)
		}
	}
	return h.wrong
}

// parse returns the rules of the file. If it returns an error, it returns no rules.
func (h *Hosts) parse(content []byte) (rules, error) {
	found := rules{}
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := found.add(line); err != nil {
			return rules{}, fmt.Errorf("%s, line %d: %w", h.file.Path, i+1, err)
		}
	}
	return found, nil
}

// Now returns which hosts may vouch now.
func (h *Hosts) Now() Rules {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lookAndLog()
	return Rules{h.added, h.inFile}
}

// Voucher returns the first of a host's names under which the host may vouch for the project. It
// returns an empty name if the host may not.
func (r Rules) Voucher(names []string, project string) (host string) {
	for _, name := range names {
		name = strings.ToLower(name)
		if r.added.may(name, project) || r.inFile.may(name, project) {
			return name
		}
	}
	return ""
}

// Names returns the names of the hosts, sorted, and an error if the file's hosts may not vouch.
func (h *Hosts) Names() ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lookAndLog()
	all := maps.Clone(h.added)
	maps.Copy(all, h.inFile)
	return slices.Sorted(maps.Keys(all)), h.wrong
}

// lookAndLog calls look and logs its error, unless the error is the same as before.
func (h *Hosts) lookAndLog() {
	before := h.wrong
	if err := h.look(); err != nil && (before == nil || before.Error() != err.Error()) {
		slog.Error("the hosts in the vouch file may not vouch until it is fixed", "error", err)
	}
}

// add adds a rule, HOST=PATTERN. Its errors do not quote the rule.
func (r rules) add(rule string) error {
	host, pattern, ok := strings.Cut(rule, "=")
	if !ok || host == "" || pattern == "" {
		return errors.New("not HOST=PATTERN")
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return errors.New("the pattern is malformed")
	}
	host = strings.ToLower(host)
	r[host] = append(r[host], pattern)
	return nil
}

func (r rules) may(host, project string) bool {
	return store.MatchesOne(r[host], project)
}
