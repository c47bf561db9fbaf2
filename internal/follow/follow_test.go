package follow

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAFileIsReadAgainWhenItHasChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f := File{Path: path}
	if _, changed, err := f.Read(); !os.IsNotExist(err) || !changed {
		t.Errorf("no file: %v, changed %v", err, changed)
	}

	hourAgo := time.Now().Add(-time.Hour)
	write := func(name, content string, then time.Time) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
	read := func(want string, again bool) {
		t.Helper()
		content, changed, err := f.Read()
		if err != nil || string(content) != want || changed != again {
			t.Errorf("read %q, changed %v, %v; want %q, %v", content, changed, err, want, again)
		}
	}

	write(path, "one", hourAgo)
	read("one", true)
	read("one", false)
	write(path, "two", hourAgo) // in place, with the same size and mtime: only the ctime tells
	read("two", true)
	read("two", false)

	write(path+".new", "six", hourAgo)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	read("six", true)

	write(path+".other", "seven", hourAgo)
	if err := os.Symlink(path+".other", path+".link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".link", path); err != nil {
		t.Fatal(err)
	}
	read("seven", true)
	read("seven", false)

	write(path+".other", "eight", time.Now())
	read("eight", true)
	read("eight", false) // the file is so new that it is read again (store.FileVersionOf), which is no change

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if content, changed, err := f.Read(); err == nil || content != nil || !changed {
		t.Errorf("a file that is gone: %q, %v, %v", content, changed, err)
	}
}

// A file that is too large is not read in part, since a line that is cut off could allow more than
// the whole line.
func TestAFileIsNotReadInPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f := File{Path: path}
	for length, whole := range map[int]bool{most: true, most + 1: false} {
		if err := os.WriteFile(path, make([]byte, length), 0o600); err != nil {
			t.Fatal(err)
		}
		if content, _, err := f.Read(); (err == nil) != whole || whole != (len(content) == length) {
			t.Errorf("of %d bytes %d are read: %v", length, len(content), err)
		}
	}
}
