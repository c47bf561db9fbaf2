package trail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheFileIsMadeWithItsDirectories(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state/terok-gate/trail.log")
	if err := Write(path, Event{Event: Issued}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm()&0o066 != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

// Guards against: a line that is lost, or a file that is set aside twice, when several
// writers find it full.
func TestAFullFileIsSetAsideOnceAndNoLineIsLost(t *testing.T) {
	const writers, lines = 16, 50
	path := filepath.Join(t.TempDir(), "trail.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, mostBytes-2000); err != nil { // a hole
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := range lines {
				if err := Write(path, Event{Event: Issued, Container: fmt.Sprint(w), Task: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()

	written := 0
	for _, file := range []string{path, aside(path, 1)} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		written += bytes.Count(content, []byte(`"event":"issued"`))
	}
	if written != writers*lines {
		t.Errorf("of %d lines there are %d", writers*lines, written)
	}
	if _, err := os.Stat(aside(path, 2)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was set aside twice: %v", err)
	}
}

func TestFilesThatWereSetAsideAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail.log")
	for i := range mostAside + 3 {
		if err := Write(path, Event{Event: Refused, Container: fmt.Sprint(i), Error: "no"}); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, mostBytes); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, Event{Event: Issued}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != mostAside {
		t.Errorf("files: %q, %v", files, err)
	}
	first, err := os.Open(aside(path, mostAside))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	line, err := bufio.NewReader(first).ReadString('\n')
	if err != nil || !bytes.Contains([]byte(line), []byte(`"container":"3"`)) {
		t.Errorf("the oldest begins with %q, %v", line, err)
	}
}

func TestWhatIsNoFileIsNotSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := Write(path, Event{Event: Issued}); err != nil {
		t.Error(err)
	}
}
