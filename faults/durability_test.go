package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// After a power cut the token file is the old or the new one, whole, and what was
// said to be done is done: from the recorded system calls of every command that
// changes the token file, content and owner are on disk before the rename, and the
// rename is before the command reports it or ends.
func TestContentIsSyncedBeforeTheRenameAndTheFolderAfterIt(t *testing.T) {
	needTracer(t)
	commands := []struct {
		name string
		s    situation
		args []string // after the common flags; nil for the situation's stage
		in   string
	}{
		{name: "create, the first token of all", s: situation{folder: "absent"}, args: []string{"create", "--project", "demo", "--task", "1"}},
		{name: "create, among other tokens", s: situation{folder: "full"}, args: []string{"create", "--project", "demo", "--task", "1"}},
		{name: "revoke, among other tokens", s: situation{folder: "full"}, args: []string{"revoke", "--container", "c0ffee"}},
		{name: "reap, among other tokens", s: situation{folder: "full"}, args: []string{"reap"}},
	}
	for _, s := range situations {
		commands = append(commands, struct {
			name string
			s    situation
			args []string
			in   string
		}{name: s.name, s: s})
	}
	renames, wrong := 0, 0
	for _, command := range commands {
		t.Run(command.name, func(t *testing.T) {
			w, err := newWorld(command.s)
			must(t, err)
			defer w.remove()
			p := w.program()
			if command.args != nil {
				p = program{args: append([]string{"--token-file", w.tokens}, command.args...)}
			}
			f, err := traced(p, w.dir, func(call, when, unix.Errno) fault { return fault{} })
			must(t, err)
			if f.status != 0 {
				t.Fatalf("status %d: %s", f.status, f.stderr)
			}
			n, err := durable(f)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d renames, not one", n)
			}
			if err != nil {
				t.Error(err)
				wrong++
			}
			renames += n
		})
	}
	t.Logf("commands recorded: %d, renames: %d, without the content synced before or the folder after: %d", len(commands), renames, wrong)
}

// durable goes through recorded calls and reports a rename of what was not synced,
// or a report or end before the folder was.
func durable(f finished) (renames int, err error) {
	dirty := map[string]call{} // by file: the last change that is not synced
	folders := map[string]call{}
	for i, c := range f.calls {
		if f.result[i] != 0 {
			continue
		}
		switch c.name {
		case "write", "pwrite64", "ftruncate", "fchown", "fchmod", "fchownat", "fchmodat", "utimensat":
			if c.object == "stdout" && len(folders) > 0 {
				return renames, fmt.Errorf("%v comes before the folder is synced: %v", c, folders)
			}
			dirty[c.object] = c
		case "fsync":
			delete(dirty, c.object)
			delete(folders, c.object)
		case "fdatasync":
			return renames, fmt.Errorf("%v does not sync the owner", c)
		case "renameat", "renameat2":
			renames++
			from, to, _ := strings.Cut(c.object, " -> ")
			if change, ok := dirty[from]; ok {
				return renames, fmt.Errorf("%v comes without a sync after %v", c, change)
			}
			written := slices.IndexFunc(f.calls[:i], func(w call) bool { return w.name == "write" && w.object == from })
			if written < 0 {
				return renames, fmt.Errorf("%v: nobody wrote %s", c, from)
			}
			folder := to[:strings.LastIndexByte(to, '/')]
			if folder != from[:strings.LastIndexByte(from, '/')] {
				return renames, fmt.Errorf("%v goes from folder to folder", c)
			}
			folders[folder] = c
		}
	}
	if len(folders) > 0 {
		return renames, fmt.Errorf("the folder is not synced after %v", folders)
	}
	return renames, nil
}
