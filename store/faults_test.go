package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

func TestATokenFileThatIsNotARegularFileIsRefused(t *testing.T) {
	const content = `{"x": {"project": "demo", "task": "1", "container": "c1"}}`
	for _, row := range []struct {
		name string
		make func(path, other string) error
		want string
	}{
		{"a symbolic link to a token file", func(path, other string) error { return os.Symlink(other, path) }, "not a regular file"},
		{"a symbolic link to nothing", func(path, other string) error { return os.Symlink(other+".none", path) }, "not a regular file"},
		{"a symbolic link to itself", func(path, other string) error { return os.Symlink(path, path) }, "not a regular file"},
		{"a directory", func(path, other string) error { return os.Mkdir(path, 0o700) }, "not a regular file"},
		{"a fifo", func(path, other string) error { return unix.Mkfifo(path, 0o600) }, "not a regular file"},
		{"a socket", func(path, other string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }, "not a regular file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			other := filepath.Join(t.TempDir(), "other")
			write(t, other, content)
			f := tokenFile(t)
			if err := row.make(f.Path, other); err != nil {
				t.Fatal(err)
			}

			checkOther, before := untouched(t, other), statOf(t, f.Path).Ino
			calls := map[string]func(store.File) error{
				"Entries": func(f store.File) error { _, err := f.Entries(); return err },
			}
			for name, change := range changes {
				calls[name] = change
			}

			for name, call := range calls {
				wantError(t, call(f), "token file "+f.Path, row.want)
				if t.Failed() {
					t.Fatalf("the call was %s", name)
				}
			}

			checkOther(t)
			if statOf(t, f.Path).Ino != before {
				t.Error("the file was replaced")
			}
			if names := namesIn(t, filepath.Dir(f.Path)); len(names) != 2 {
				t.Errorf("the directory holds %v", names)
			}
		})
	}
}

func TestADirectoryOfTheTokenFileMayBeASymbolicLink(t *testing.T) {
	real := tokenFile(t)
	link := filepath.Join(t.TempDir(), "gate")
	if err := os.Symlink(filepath.Dir(real.Path), link); err != nil {
		t.Fatal(err)
	}
	f := store.File{Path: filepath.Join(link, "tokens.json")}
	if _, err := f.CreateToken("demo", "1"); err != nil {
		t.Fatal(err)
	}
	if entries, err := real.Entries(); err != nil || len(entries) != 1 {
		t.Errorf("entries %v, error %v", entries, err)
	}
}

func TestAFileInPlaceOfADirectoryIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	f := store.File{Path: filepath.Join(file, "tokens.json")}
	_, err := f.CreateToken("demo", "1")
	wantError(t, err, "directory", file)
	if _, err := f.Entries(); err == nil {
		t.Error("Entries sees an empty file")
	}
	if _, _, err := f.RevokeContainer("c1"); err == nil {
		t.Error("RevokeContainer sees an empty file")
	}
}

const temporary = ".tokens.json.terok-gate-hook"

func TestTheNextWriterRemovesAKilledWritersTemporaryFile(t *testing.T) {
	for _, row := range []struct{ name, kill string }{
		{"killed before it wrote anything", "pwritev"},
		{"killed before its content was on the disk", "fsync"},
		{"killed before it committed", "renameat,renameat2,rename"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := withOneToken(t)
			content, inode := contentOf(t, f.Path), statOf(t, f.Path).Ino

			args := []string{"-f", "-o", "/dev/null", "-e", "trace=" + row.kill, "-e", "inject=" + row.kill + ":signal=KILL:when=1"}
			if row.kill == "pwritev" { // of the temporary file
				args = append(args, "-P", filepath.Join(filepath.Dir(f.Path), temporary))
			}

			killed := under(t, helper(t, "issue", f.Path, "1m"), "strace", args...)
			if err := killed.Run(); err == nil {
				t.Fatal("the writer was not killed")
			}
			if !namesIn(t, filepath.Dir(f.Path))[temporary] {
				t.Fatal("the killed writer left nothing")
			}
			if contentOf(t, f.Path) != content || statOf(t, f.Path).Ino != inode {
				t.Error("the killed writer changed the token file")
			}

			if _, err := f.CreateToken("demo", "2"); err != nil {
				t.Fatal(err)
			}
			wantNames(t, f, "tokens.json", "tokens.json.lock")
			if entries, err := f.Entries(); err != nil || len(entries) != 2 {
				t.Errorf("entries %v, error %v", entries, err)
			}
		})
	}
}

func wantNames(t *testing.T, f store.File, want ...string) {
	t.Helper()
	names := namesIn(t, filepath.Dir(f.Path))
	for _, name := range want {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
		delete(names, name)
	}
	for name := range names {
		t.Errorf("%s was left in the directory", name)
	}
}

func TestAFileInPlaceOfTheTemporaryFileIsNotWrittenTo(t *testing.T) {
	const secret = "of another user"
	for _, row := range []struct {
		name string
		make func(path, other string) error
		want string // what the error says; empty: no error, and the file is removed
	}{
		{"a symbolic link", func(path, other string) error { return os.Symlink(other, path) }, ""},
		{"a hard link", func(path, other string) error { return os.Link(other, path) }, ""},
		{"a file that may not be written", func(path, other string) error { return os.WriteFile(path, nil, 0o400) }, ""},
		{"a fifo", func(path, other string) error { return unix.Mkfifo(path, 0o600) }, ""},
		{"an empty directory", func(path, other string) error { return os.Mkdir(path, 0o700) }, ""},
		{"a directory that is not empty", func(path, other string) error { return os.MkdirAll(path+"/a", 0o700) }, "remove a killed writer's temporary file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := withOneToken(t)
			other := filepath.Join(filepath.Dir(f.Path), "other")
			write(t, other, secret)
			if err := row.make(filepath.Join(filepath.Dir(f.Path), temporary), other); err != nil {
				t.Fatal(err)
			}

			check := untouched(t, f.Path)
			_, err := f.CreateToken("demo", "2")

			if got := contentOf(t, other); got != secret {
				t.Errorf("the other file holds %q", got)
			}

			if row.want != "" {
				wantError(t, err, f.Path, row.want)
				check(t)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantNames(t, f, "tokens.json", "tokens.json.lock", "other")
		})
	}
}

func TestAFileThatCannotBeWrittenIsLeftAsItWas(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name string
		harm func(t *testing.T, f store.File)
		fix  func(t *testing.T, f store.File)
		want error
	}{
		{
			"a read-only file system",
			func(t *testing.T, f store.File) { remount(t, f, unix.MS_RDONLY) },
			func(t *testing.T, f store.File) { remount(t, f, 0) },
			unix.EROFS,
		},
		{
			"a token file that is a mount point of its own",
			func(t *testing.T, f store.File) { mount(t, f.Path, f.Path, "", unix.MS_BIND, "") },
			func(t *testing.T, f store.File) {
				if err := unix.Unmount(f.Path, 0); err != nil {
					t.Fatal(err)
				}
			},
			unix.EBUSY,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !inside(t, privateMounts) {
				return
			}

			f := tokenFile(t)
			mount(t, "tmpfs", filepath.Dir(f.Path), "tmpfs", 0, "")
			issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c1"})
			row.harm(t, f)

			check := untouched(t, f.Path)
			for name, change := range changesOf("c1") {
				err := change(f)
				wantError(t, err, f.Path)
				if !errors.Is(err, row.want) {
					t.Errorf("%s: %v, not %v", name, err, row.want)
				}
				check(t)
			}
			if entries, err := f.Entries(); err != nil || len(entries) != 1 {
				t.Errorf("entries %v, error %v", entries, err)
			}

			row.fix(t, f)
			for name, change := range changesOf("c1") {
				if err := change(f); err != nil {
					t.Errorf("%s, fixed: %v", name, err)
				}
			}
		})
	}
}

func remount(t *testing.T, f store.File, flags uintptr) {
	t.Helper()
	mount(t, "", filepath.Dir(f.Path), "", unix.MS_REMOUNT|flags, "")
}

func TestAUserWhoMayNotReadOrWriteChangesNothing(t *testing.T) {
	for _, row := range []struct {
		name            string
		directory, file uint32
		want, less      string // the error has want, and then the token file's path, from which the suffix in less is cut
	}{
		{"the directory may not be written", 0o500, 0o600, "lock file", ""},
		{"the directory may not be entered", 0o600, 0o600, "the token file's directory: open", "tokens.json"},
		{"the file may not be read", 0o700, 0o000, "token file", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := store.File{Path: filepath.Join(openDirectory(t), "gate", "tokens.json")}
			gate := filepath.Dir(f.Path)
			if err := os.Mkdir(gate, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, f.Path, `{"x": {"project": "demo", "task": "1"}}`)
			before := contentOf(t, f.Path)
			cmd := helper(t, "issue", f.Path, "1m")

			if os.Geteuid() == 0 {
				for _, path := range []string{gate, f.Path} {
					if err := os.Chown(path, 65534, 65534); err != nil {
						t.Fatal(err)
					}
				}
				cmd.Env = append(cmd.Env, uidVar+"=65534")
			}

			chmod(t, f.Path, row.file)
			chmod(t, gate, row.directory)
			err := failure(cmd)
			chmod(t, gate, 0o700)
			chmod(t, f.Path, 0o600)

			wantError(t, err, row.want+" "+strings.TrimSuffix(f.Path, row.less), "permission denied")
			if after := contentOf(t, f.Path); after != before {
				t.Errorf("the file held %q and holds %q", before, after)
			}
			for name := range namesIn(t, gate) {
				if !strings.HasPrefix(name, "tokens.json") {
					t.Errorf("%s was left in the directory", name)
				}
			}
		})
	}
}

func chmod(t *testing.T, path string, mode uint32) {
	t.Helper()
	if err := unix.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// A token that is issued must be durable when Issue returns. The order of the system calls ensures
// that.
func TestContentIsSyncedBeforeTheRenameAndTheDirectoryAfterIt(t *testing.T) {
	f := withOneToken(t)
	trace := filepath.Join(t.TempDir(), "trace")
	output(t, under(t, helper(t, "issue", f.Path, "1m"), "strace", "-f", "-y", "-o", trace, "-e", "trace=fsync,rename,renameat,renameat2"))
	var got []string
	dir := filepath.Dir(f.Path)
	for line := range strings.Lines(contentOf(t, trace)) {
		switch {
		case strings.Contains(line, "fsync(") && strings.Contains(line, dir+"/"+temporary+">"):
			got = append(got, "sync the content")
		case strings.Contains(line, "fsync(") && strings.Contains(line, dir+">"):
			got = append(got, "sync the directory")
		case strings.Contains(line, "rename"):
			got = append(got, "rename")
		}
	}
	if want := []string{"sync the content", "rename", "sync the directory"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q:\n%s", got, want, contentOf(t, trace))
	}
}
