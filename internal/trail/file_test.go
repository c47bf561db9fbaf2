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
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

func TestTheFileIsMadeWithItsDirectories(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state/terok-gate/trail.log")
	if err := Write(path, Event{Event: Issued}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm()&0o066 != 0 {
		t.Errorf("the directory is %v, %v", info, err)
	}
}

// Guards against: several writers find the file full, and a line is lost or the file is set aside
// twice.
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
		t.Errorf("the file was set aside twice: %v", err)
	}
}

// setAsideMany makes this number of files that are set aside, and dates them back.
func setAsideMany(t *testing.T, path string, number int, ago time.Duration) {
	t.Helper()
	for i := range number {
		if err := Write(path, Event{Event: Refused, Container: fmt.Sprint(i), Error: "no"}); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, mostBytes); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, Event{Event: Issued}); err != nil {
			t.Fatal(err)
		}
		written := time.Now().Add(-ago)
		if err := os.Chtimes(aside(path, 1), written, written); err != nil {
			t.Fatal(err)
		}
	}
}

// oldest checks how many files there are, and which container the oldest is about.
func oldest(t *testing.T, path string, number, container int) {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != number {
		t.Errorf("files: %q, %v", files, err)
	}
	first, err := os.Open(aside(path, number))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	line, err := bufio.NewReader(first).ReadString('\n')
	if err != nil || !bytes.Contains([]byte(line), fmt.Appendf(nil, `"container":"%d"`, container)) {
		t.Errorf("the oldest begins with %q, %v", line, err)
	}
}

func TestOldFilesThatWereSetAsideAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail.log")
	setAsideMany(t, path, leastAside+3, maxAge+time.Hour)
	oldest(t, path, leastAside, 3)
}

// Guards against: a container pushes tens of thousands of refs a few times, and then no line says
// what was moved before.
func TestAFloodDoesNotPushOutYoungFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trail.log")
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &disk); err != nil || disk.Bavail < disk.Blocks/10 {
		testenv.Cannot(t, "the disk has less than a tenth free")
	}
	setAsideMany(t, path, 3*leastAside, maxAge-time.Hour)
	oldest(t, path, 3*leastAside, 0)
}

func TestOldFilesAndFilesOnAFullDiskAreExpendable(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		age        time.Duration
		free       uint64 // of 100 blocks
		expendable bool
	}{
		{0, 50, false},
		{maxAge - time.Hour, 10, false},
		{maxAge + time.Hour, 50, true},
		{0, 9, true},
	} {
		file := unix.Stat_t{Mtim: unix.NsecToTimespec(now.Add(-row.age).UnixNano())}
		disk := unix.Statfs_t{Blocks: 100, Bavail: row.free}
		if isExpendable(&file, &disk, now) != row.expendable {
			t.Errorf("%v old, %d %% free: expendable is not %v", row.age, row.free, row.expendable)
		}
	}
}

func TestAFifoIsNotSetAside(t *testing.T) {
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
	if there, err := os.Lstat(path); err != nil || there.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("instead of the fifo there is %v, %v", there, err)
	}
}
