// floor makes only the system calls that a durable change of the token file needs, and writes the
// file as it was. No hook written in Go could make such a change in less time.
//
//	floor tokens.json < state.json
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	if err := change(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func change(path string) error {
	state := make([]byte, 64<<10)
	for {
		n, err := unix.Read(0, state)
		if err != nil {
			return fmt.Errorf("read the state: %w", err)
		}
		if n == 0 {
			break
		}
	}

	lock, err := unix.Open(path+".lock", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(lock, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock: %w", err)
	}

	old, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(old, &stat); err != nil {
		return fmt.Errorf("stat: %w", err)
	}

	content := make([]byte, stat.Size)
	for rest := content; len(rest) > 0; {
		n, err := unix.Read(old, rest)
		if err != nil || n == 0 {
			return fmt.Errorf("read: %d %w", n, err)
		}
		rest = rest[n:]
	}

	fresh, err := unix.Open(path+".floor", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	for rest := content; len(rest) > 0; {
		n, err := unix.Write(fresh, rest)
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		rest = rest[n:]
	}

	if err := unix.Fsync(fresh); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := unix.Rename(path+".floor", path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}

	slash := len(path) - 1
	for path[slash] != '/' {
		slash--
	}
	directory, err := unix.Open(path[:slash], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	if err := unix.Fsync(directory); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}
