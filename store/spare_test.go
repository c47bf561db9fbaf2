package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

const spare = ".tokens.json.spare"

// A token can be revoked although the disk is full. A new one is not issued then: the
// spare is for revocations.
func TestTokensAreRevokedOnAFullDisk(t *testing.T) {
	testenv.NeedRoot(t)

	fill := func(t *testing.T, dir string) {
		for size := 1 << 20; size > 0; size /= 2 { // to the last block
			filler, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
			if errors.Is(err, unix.ENOSPC) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}

			for err == nil {
				_, err = filler.Write(make([]byte, size))
			}
			if filler.Close(); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
		}
	}

	for _, row := range []struct {
		name string
		make func(t *testing.T, dir string)
		fill func(t *testing.T, dir string)
	}{
		{"a tmpfs", func(t *testing.T, dir string) { mount(t, "tmpfs", dir, "tmpfs", 0, "size=1m") }, fill},
		{"a tmpfs without free inodes", func(t *testing.T, dir string) { mount(t, "tmpfs", dir, "tmpfs", 0, "nr_inodes=8") }, func(t *testing.T, dir string) {
			for i := 0; ; i++ {
				err := os.WriteFile(fmt.Sprintf("%s/filler%d", dir, i), nil, 0o600)
				if errors.Is(err, unix.ENOSPC) {
					return
				} else if err != nil || i > 100 {
					t.Fatalf("the inodes do not run out: %v", err)
				}
			}
		}},
		{"an ext4", func(t *testing.T, dir string) {
			memory := t.TempDir()
			mount(t, "tmpfs", memory, "tmpfs", 0, "")
			image := filepath.Join(memory, "image")
			write(t, image, "")
			if err := os.Truncate(image, 8<<20); err != nil {
				t.Fatal(err)
			}
			run(t, "mkfs.ext4", "-q", "-F", "-m", "0", image) // no blocks for root alone
			if out, err := exec.Command(testenv.Tool(t, "mount"), "-o", "loop", image, dir).CombinedOutput(); err != nil {
				testenv.Cannot(t, "no file can be mounted as a disk: %v: %s", err, bytes.TrimSpace(out))
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		}, fill},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !inside(t, privateMounts) {
				return
			}

			f := tokenFile(t)
			dir := filepath.Dir(f.Path)
			row.make(t, dir)

			const tokens = 40
			for i := range tokens {
				issue(t, f, store.Entry{Token: tokenNamed(fmt.Sprintf("%02x", i)), Grant: store.Grant{Project: "demo", Task: "1"}, Container: fmt.Sprint("c", i)})
			}
			row.fill(t, dir)

			check := untouched(t, f.Path)
			_, err := f.CreateToken("demo", "2")
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("a token is issued on a full disk: %v", err)
			}
			check(t)

			for i := range tokens {
				revoked, _, err := f.RevokeContainer(fmt.Sprint("c", i))
				if err != nil || len(revoked) != 1 {
					t.Fatalf("revocation %d: %d revoked, %v", i, len(revoked), err)
				}
				if entries, err := f.Entries(); err != nil || len(entries) != tokens-1-i {
					t.Fatalf("after the last revocation there are %d tokens: %v", len(entries), err)
				}
			}

			if content := contentOf(t, f.Path); content != "{}\n" {
				t.Errorf("the file holds %q", content)
			}
		})
	}
}

// The spare has at least as many blocks as the token file needs, belongs to the token file's owner,
// and holds only zeroes.
func TestTheSpareKeepsUpWithTheTokenFile(t *testing.T) {
	f := withOneToken(t)
	path := filepath.Join(filepath.Dir(f.Path), spare)
	for i := range 300 {
		issue(t, f, store.Entry{Token: tokenNamed(fmt.Sprintf("%03x", i)), Grant: store.Grant{Project: "demo", Task: "1"}})
	}
	has, size := statOf(t, path), statOf(t, f.Path).Size
	if has.Mode != unix.S_IFREG|0o600 || has.Uid != statOf(t, f.Path).Uid || has.Size < size || has.Blocks*512 < size {
		t.Errorf("the token file has %d bytes, and the spare is %+v", size, has)
	}
	content := contentOf(t, path)
	if len(bytes.Trim([]byte(content), "\x00")) > 0 {
		t.Errorf("the spare holds %.100q", content)
	}
	if _, err := f.CreateToken("demo", "1"); err != nil {
		t.Fatal(err)
	}
	if statOf(t, path).Ino != has.Ino {
		t.Error("a spare that is large enough is made again")
	}
}

// In another user's directory, a hard link to one of root's files could be in the spare's place.
func TestAFileInPlaceOfTheSpareIsNotWrittenTo(t *testing.T) {
	testenv.NeedRoot(t)
	const secret = "of another user"
	for name, make := range map[string]func(path, other string) error{
		"a hard link":     func(path, other string) error { return os.Link(other, path) },
		"a symbolic link": func(path, other string) error { return os.Symlink(other, path) },
		"a fifo":          func(path, other string) error { return unix.Mkfifo(path, 0o600) },
		"a file that everybody can write": func(path, other string) error {
			return errors.Join(os.WriteFile(path, []byte(secret), 0o600), os.Chmod(path, 0o666))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if !inside(t, privateMounts) {
				return
			}

			f := tokenFile(t)
			dir := filepath.Dir(f.Path)
			mount(t, "tmpfs", dir, "tmpfs", 0, "nr_inodes=8")
			issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})

			path, other := filepath.Join(dir, spare), filepath.Join(dir, "other")
			write(t, other, secret)
			if err := errors.Join(os.Remove(path), make(path, other)); err != nil {
				t.Fatal(err)
			}
			before := *statOf(t, path)
			for i := 0; os.WriteFile(fmt.Sprintf("%s/filler%d", dir, i), nil, 0o600) == nil; i++ {
			}

			if _, _, err := f.RevokeContainer("c1"); err == nil {
				t.Error("the file in the spare's place was written to")
			}
			if got := contentOf(t, other); got != secret {
				t.Errorf("the other file holds %q", got)
			}
			after := *statOf(t, path)
			before.Atim, after.Atim = syscall.Timespec{}, syscall.Timespec{}
			if before != after {
				t.Errorf("the file in the spare's place was %+v and is %+v", before, after)
			}
			if names := namesIn(t, dir); names[temporary] {
				t.Error("the temporary file was left")
			}
		})
	}
}
