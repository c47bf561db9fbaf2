// Removes quarantine directories that killed pushes left behind. In such a directory,
// <repository>/objects/tmp_objdir-incoming-*, git keeps the objects of a push until its pre-receive
// hook has agreed. If a signal ends git, git leaves the directory behind (from 2.39 on).
//
// While the gate runs, it removes only the directories of its own pushes that have ended. When it
// starts, it removes its user's directories in those repositories in which no process of that user
// works. A push by path, or through another gate, would fail without its directory.

package gate

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const quarantinePrefix = "tmp_objdir-incoming-"

// quarantineOf returns the name of the directory that the receive-pack with this process id has
// made, or "" if it finds none. The name is in the environment of receive-pack's children: during
// nearly all of a push, receive-pack has a child that unpacks or checks objects, or is a hook.
func quarantineOf(receivePack int) (name string) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", receivePack))
	for _, list := range lists {
		children, _ := os.ReadFile(list) // receive-pack may have ended
		for _, child := range strings.Fields(string(children)) {
			environment, _ := os.ReadFile("/proc/" + child + "/environ")
			for _, variable := range bytes.Split(environment, []byte{0}) {
				path, is := bytes.CutPrefix(variable, []byte("GIT_QUARANTINE_PATH="))
				if name := filepath.Base(string(path)); is && strings.HasPrefix(name, quarantinePrefix) {
					return name
				}
			}
		}
	}
	return ""
}

// removeQuarantine removes the directory of a push that has ended.
func (r repository) removeQuarantine(name string) {
	if err := os.RemoveAll(filepath.Join(r.path, "objects", name)); err != nil {
		slog.Warn("remove what an unfinished push left", "project", r.project, "error", err)
	}
}

// removeAbandoned removes the quarantine directories of our user, unless one of our user's processes
// may still use them.
func (r repository) removeAbandoned() {
	entries, _ := os.ReadDir(filepath.Join(r.path, "objects"))
	var ours []string
	for _, entry := range entries {
		var stat unix.Stat_t
		if strings.HasPrefix(entry.Name(), quarantinePrefix) &&
			unix.Lstat(filepath.Join(r.path, "objects", entry.Name()), &stat) == nil && int(stat.Uid) == os.Geteuid() {
			ours = append(ours, entry.Name())
		}
	}

	// Processes are looked for after the listing. So a listed directory is spared if its maker
	// lives, and a directory that is made later is not on the list.
	if len(ours) == 0 || r.isWorkedIn() {
		return
	}
	for _, name := range ours {
		r.removeQuarantine(name)
	}
}

// isWorkedIn reports whether a process of our user may be a receive-pack in the repository. A
// receive-pack has the repository as its working directory.
func (r repository) isWorkedIn() bool {
	var repo unix.Stat_t
	if unix.Stat(r.path, &repo) != nil {
		return true
	}

	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		var owner, cwd unix.Stat_t
		if unix.Stat(process, &owner) != nil || int(owner.Uid) != os.Geteuid() {
			continue
		}

		switch err := unix.Stat(process+"/cwd", &cwd); err {
		case nil:
			if cwd.Dev == repo.Dev && cwd.Ino == repo.Ino {
				return true
			}
		case unix.EACCES, unix.EPERM: // the process has capabilities that we lack
			if name, _ := os.ReadFile(process + "/comm"); bytes.HasPrefix(name, []byte("git")) {
				return true
			}
		}
	}
	return false
}
