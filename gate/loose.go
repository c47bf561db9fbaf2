// Reads a push's new commits without starting git. That works for small pushes: git stores their
// objects as loose files.

package gate

import (
	"bytes"
	"compress/zlib"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mostRead is how many commits of a push are read at most before git is asked.
const mostRead = 64

// isForward reports whether it has found the commit old in the history of the commit new. If it has
// not, git may still find it there. isForward reads at most budget commits, and subtracts their
// number from budget.
func (repo repository) isForward(old, new string, budget *int) bool {
	for next := []string{new}; len(next) > 0 && *budget > 0; *budget-- {
		id := next[0]
		if id == old {
			return true
		}
		next = append(next[1:], repo.parents(id)...)
	}
	return false
}

// hasWholeHistories reports whether every commit's parents are those that the commit names. In a
// shallow clone, or with grafts, git takes other parents for some commits.
func (repo repository) hasWholeHistories() bool {
	for _, file := range []string{"shallow", "info/grafts"} {
		if _, err := os.Lstat(filepath.Join(repo.path, file)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// parents returns the parents of a commit if it is a loose file, and otherwise nil.
func (repo repository) parents(id string) (parents []string) {
	if len(id) < 3 {
		return nil
	}
	path := filepath.Join(repo.path, "objects", id[:2], id[2:])
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer file.Close()
	unpacked, err := zlib.NewReader(file)
	if err != nil {
		return nil
	}

	// The ids of up to 200 parents fit into this.
	text, _ := io.ReadAll(io.LimitReader(unpacked, 16<<10))
	header, text, _ := bytes.Cut(text, []byte{0})
	if !bytes.HasPrefix(header, []byte("commit ")) {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case key == "tree":
		case key == "parent" && len(value) == len(id):
			parents = append(parents, value)
		default:
			return parents
		}
	}
	return parents
}
