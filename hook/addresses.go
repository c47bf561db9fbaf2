// Makes git in a container find projects at the gate by the addresses that they have at a forge
// (insteadOf).
//
// The addresses are in a file of the operator's: see [Settings.Projects]. A container can do
// without these addresses, so an error in the file never keeps it from starting.

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"terok-gate-hook/store"
)

// address is a project's entry in the file. The entry may have other keys as well.
type address struct {
	Source string `json:"source"` // as the operator gave it; empty, or of any form

	// The parts of a forge's address. The scheme is empty if there is none.
	Scheme string `json:"scheme"` // https or ssh
	Host   string `json:"host"`
	Port   string `json:"port"` // empty for the scheme's default
	Path   string `json:"path"` // without .git
}

// addressesLimit is the largest size of the file, in bytes.
const addressesLimit = 4 << 20

// addresses returns the addresses of the projects that a container may use. An error says which
// addresses were left out; the others are returned with it.
func (s Settings) addresses(want request) (map[string]address, error) {
	if s.Projects == "" || s.URL() == "" {
		return nil, nil
	}
	all, err := readAddresses(s.Projects)
	if err != nil {
		return nil, fmt.Errorf("addresses in %s: %w", s.Projects, err)
	}

	granted := map[string]address{}
	var wrong []string
	for _, project := range append([]string{want.Project}, slices.Sorted(maps.Keys(want.Also))...) {
		text, known := all[project]
		if !known {
			continue
		}

		var a address
		err := json.Unmarshal(text, &a)
		if err == nil && a.Scheme == "" {
			continue
		}
		if err == nil {
			err = a.check()
		}
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("project %s: %v", project, err))
			continue
		}
		granted[project] = a
	}

	if wrong != nil {
		return granted, fmt.Errorf("addresses in %s: %s", s.Projects, strings.Join(wrong, "; "))
	}
	return granted, nil
}

// readAddresses reads the file. The file must belong to root or to the hook's own user, and no other
// user may be able to write to it. A user who can write to it could make git in a container fetch a
// repository other than the one that git was told to fetch.
func readAddresses(path string) (all map[string]json.RawMessage, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()

	var is unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &is); err != nil {
		return nil, err
	}
	switch {
	case is.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("not a regular file")
	case is.Uid != 0 && int(is.Uid) != os.Geteuid():
		return nil, fmt.Errorf("it belongs to user %d, not to root or to the hook's user", is.Uid)
	case is.Mode&0o022 != 0:
		return nil, fmt.Errorf("mode %04o: others can write it", is.Mode&0o7777)
	}

	content, err := readLimited(file, addressesLimit)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, &all); err != nil {
		return nil, err
	}
	if all == nil {
		return nil, errors.New("a JSON null, not an object")
	}
	return all, nil
}

// check returns an error unless all characters of the address are plain: it becomes part of git's
// configuration and of shell variables.
func (a address) check() error {
	const longest = 400
	switch {
	case a.Scheme != "https" && a.Scheme != "ssh":
		return fmt.Errorf("scheme %.32q is neither https nor ssh", a.Scheme)
	case a.Host == "" || len(a.Host) > longest || !plain(a.Host, ".-") || strings.HasPrefix(a.Host, "-"):
		return fmt.Errorf("host %.64q is refused: use letters, digits, '.' and '-'", a.Host)
	case len(a.Port) > 5 || strings.Trim(a.Port, "0123456789") != "":
		return fmt.Errorf("port %.32q is refused", a.Port)
	case a.Path == "" || len(a.Path) > longest || !plain(a.Path, "._~/+-") || strings.HasPrefix(a.Path, "/"):
		return fmt.Errorf("path %.64q is refused: use letters, digits and ._~/+-", a.Path)
	}
	return nil
}

// users returns the users that an address may have before its host, with the @: none, git, and
// the user of the source.
func (a address) users() []string {
	users := []string{"", "git@"}
	before, _, has := strings.Cut(a.Source, "@")
	if _, after, isURL := strings.Cut(before, "://"); isURL {
		before = after
	}
	if has && store.CheckName(before) == nil && before != "git" {
		users = append(users, before+"@")
	}
	return users
}

// forms returns all forms of the address that git may be given, in a fixed order and without a
// final .git.
func (a address) forms() (forms []string) {
	hosts := func(scheme, usual string) []string {
		if a.Scheme == scheme && a.Port != "" {
			return []string{a.Host + ":" + a.Port}
		}
		return []string{a.Host, a.Host + ":" + usual}
	}

	for _, user := range a.users() {
		for _, host := range hosts("https", "443") {
			forms = append(forms, "https://"+user+host+"/"+a.Path)
		}
		for _, host := range hosts("ssh", "22") {
			forms = append(forms, "ssh://"+user+host+"/"+a.Path)
		}
		if a.Scheme == "ssh" && a.Port != "" {
			continue // scp's form has no place for a port
		}
		forms = append(forms, user+a.Host+":"+a.Path, user+a.Host+":/"+a.Path)
	}
	return forms
}

// rewriting returns the git configuration that replaces these addresses with the gate's.
//
// Git replaces the longest insteadOf value that an address begins with, and keeps the rest of the address
// (git-config(1), url.<base>.insteadOf). The gate's address ends in .git. So each form is there with .git,
// too: otherwise, an address with .git would become one that ends in .git.git.
//
// If .../lib is known, .../library becomes lib.gitrary, which is no usual project name. The gate authorizes
// this name like any other.
func rewriting(gateURL string, addresses map[string]address) (config []byte) {
	gateURL = strings.TrimSuffix(gateURL, "/")
	for _, project := range slices.Sorted(maps.Keys(addresses)) {
		config = fmt.Appendf(config, "[url %q]\n", gateURL+"/"+project+".git")
		forms := addresses[project].forms()
		for _, end := range []string{"\n", ".git\n"} {
			for _, form := range forms { // without fmt: there are hundreds, and the container's start waits
				config = append(config, "\tinsteadOf = "...)
				config = append(config, form...)
				config = append(config, end...)
			}
		}
	}
	return config
}

// privateModules returns GOPRIVATE, which makes Go fetch the modules at these addresses directly
// with git, without a proxy or a checksum database. The container's own GOPRIVATE comes first in
// the value.
func privateModules(env []string, addresses map[string]address) []variable {
	var patterns []string
	if own, _ := lookUp(env, "GOPRIVATE"); own != "" && printable(own) {
		patterns = append(patterns, own)
	}
	for _, project := range slices.Sorted(maps.Keys(addresses)) {
		module := addresses[project].Host + "/" + addresses[project].Path
		patterns = append(patterns, module, module+".git")
	}
	return []variable{{"GOPRIVATE", strings.Join(patterns, ",")}}
}
