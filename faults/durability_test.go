package faults

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// After a power cut, the token file is the old or the new one, whole, and it has the
// reported changes, as far as they matter. The recorded system calls of commands that change
// the token file show that content and owner are on the disk before the rename, and that the
// rename is on the disk before the command reports the change or ends.
//
// The rename need not be durable if it changed only tokens that are tied to a process:
// after a power cut that process is dead, so its token is void in the new file and in the
// old one.
func TestAfterAPowerCutTheFileIsWholeAndNothingIsLostThatMatters(t *testing.T) {
	needTracer(t)
	type command struct {
		name string
		s    situation
		args []string // after the common flags; nil for the situation's stage
		tied bool     // every token of this container in the file is tied to a process
	}
	commands := []command{
		{name: "create, the first token of all", s: situation{directory: "absent"}, args: []string{"create", "--project", "demo", "--task", "1"}},
		{name: "create, among other tokens", s: situation{directory: "full"}, args: []string{"create", "--project", "demo", "--task", "1"}},
		{name: "revoke, among other tokens", s: situation{directory: "full"}, args: []string{"revoke", "--container", "c0ffee"}},
		{name: "reap, among other tokens", s: situation{directory: "full"}, args: []string{"reap"}},
		{name: "access, among other tokens", s: situation{directory: "full"}, args: []string{"access", "--access", "read", "c0ffee"}},
		{name: "prestart, among other tokens, its own all tied to processes", s: situation{stage: "prestart", directory: "full"}, tied: true},
		{name: "poststop, among other tokens, its own all tied to processes", s: situation{stage: "poststop", directory: "full"}, tied: true},
	}
	for _, s := range situations {
		commands = append(commands, command{name: s.name, s: s})
	}

	renames, durables, wrong := 0, 0, 0
	for _, command := range commands {
		t.Run(command.name, func(t *testing.T) {
			w, err := newWorld(command.s)
			must(t, err)
			defer w.remove()
			if command.tied {
				must(t, writeTokens(w.tokens, without(w.before, earlier)))
				must(t, w.remember())
			}

			p := w.program()
			if command.args != nil {
				p = program{args: append([]string{"--token-file", w.tokens}, command.args...)}
			}

			f, err := traced(p, w.dir, func(call, when, unix.Errno) fault { return fault{} })
			must(t, err)
			if f.status != 0 {
				t.Fatalf("status %d: %s", f.status, f.stderr)
			}

			matters, err := w.lostWithTheRename()
			must(t, err)
			n, err := durable(f, matters)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d renames, not one", n)
			}
			if err != nil {
				t.Error(err)
				wrong++
			}

			if renames += n; matters {
				durables += n
			}
		})
	}
	if durables == 0 || durables == renames {
		t.Errorf("of %d renames %d matter: one of the two kinds was not tried", renames, durables)
	}
	t.Logf("commands recorded: %d, renames: %d, that matter: %d, wrong (the content not synced before, or the directory not after): %d", len(commands), renames, durables, wrong)
}

// lostWithTheRename reports whether the file's change is about a token that is not void
// after a power cut.
func (w *world) lostWithTheRename() (bool, error) {
	now, err := w.now()
	if err != nil {
		return false, err
	}
	tied := func(entry any) bool {
		process, _ := entry.(map[string]any)["process"].(map[string]any)
		return process != nil && process["machine"] != "" // without the machine's id, another boot id does not prove a reboot
	}
	for token, entry := range now {
		if !reflect.DeepEqual(w.before[token], entry) && !tied(entry) {
			return true, nil
		}
	}
	for token, entry := range w.before {
		if _, is := now[token]; !is && !tied(entry) {
			return true, nil
		}
	}
	return false, nil
}

// durable returns an error if the recorded calls rename a file that is not synced. If it
// matters whether the rename is durable, the command must not report or end before the
// directory is synced. Otherwise the command must not sync the directory.
func durable(f finished, matters bool) (renames int, err error) {
	dirty := map[string]call{} // by file: the last change that is not synced
	directories := map[string]call{}
	for i, c := range f.calls {
		if f.result[i] != 0 {
			continue
		}

		switch c.name {
		case "write", "pwritev", "pwrite64", "ftruncate", "fchown", "fchmod", "fchownat", "fchmodat", "utimensat":
			if c.object == "stdout" && len(directories) > 0 && matters {
				return renames, fmt.Errorf("%v comes before the directory is synced: %v", c, directories)
			}
			dirty[c.object] = c
		case "fsync":
			if _, ok := directories[c.object]; ok && !matters {
				return renames, fmt.Errorf("%v is for nothing", c)
			}
			delete(dirty, c.object)
			delete(directories, c.object)
		case "fdatasync":
			return renames, fmt.Errorf("%v does not sync the owner", c)
		case "renameat", "renameat2":
			renames++
			directory, err := renamesWhole(c, f.calls[:i], dirty)
			if err != nil {
				return renames, err
			}
			directories[directory] = c
		}
	}

	if len(directories) > 0 && matters {
		return renames, fmt.Errorf("the directory is not synced after %v", directories)
	}
	return renames, nil
}

// renamesWhole returns the directory of a rename. It returns an error if the file was not
// written before, is not synced, or comes from another directory.
func renamesWhole(c call, before []call, dirty map[string]call) (directory string, err error) {
	from, to, _ := strings.Cut(c.object, " -> ")
	if change, ok := dirty[from]; ok {
		return "", fmt.Errorf("%v comes without a sync after %v", c, change)
	}

	written := slices.IndexFunc(before, func(w call) bool { return w.name == "pwritev" && w.object == from })
	if written < 0 {
		return "", fmt.Errorf("%v: %s was not written", c, from)
	}
	directory = to[:strings.LastIndexByte(to, '/')]
	if directory != from[:strings.LastIndexByte(from, '/')] {
		return "", fmt.Errorf("%v goes to another directory", c)
	}
	return directory, nil
}
