package store_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// umaskHelper issues a token in the token file args[0] with the umask args[1].
func umaskHelper(args []string) error {
	umask, err := strconv.ParseUint(args[1], 8, 32)
	if err != nil {
		return err
	}
	syscall.Umask(int(umask))
	return issueHelper([]string{args[0], "1m"})
}

func TestANewTokenFileAndItsDirectoriesAreForTheirOwnerOnlyWhateverTheUmask(t *testing.T) {
	for _, umask := range []string{"0000", "0022", "0077"} {
		t.Run(umask, func(t *testing.T) {
			dir := t.TempDir()
			f := store.File{Path: filepath.Join(dir, "state", "gate", "tokens.json")}
			output(t, helper(t, "umask", f.Path, umask))
			wantModes(t, map[string]string{
				f.Path:                           "0600",
				f.Path + ".lock":                 "0600",
				filepath.Join(dir, "state"):      "0700",
				filepath.Join(dir, "state/gate"): "0700",
			})
		})
	}
}

// With a lock file that the owner cannot open, the owner's other programs could not lock.
func TestTheOwnerCanWriteANewTokenFileWhateverTheUmask(t *testing.T) {
	for _, umask := range []string{"0277", "0777"} {
		t.Run(umask, func(t *testing.T) {
			f := tokenFile(t)
			for range 2 {
				output(t, helper(t, "umask", f.Path, umask))
				wantModes(t, map[string]string{f.Path: "0600", f.Path + ".lock": "0600"})
			}
		})
	}
}

func wantModes(t *testing.T, want map[string]string) {
	t.Helper()
	for path, mode := range want {
		want := fmt.Sprintf("%d:%d %s", os.Geteuid(), os.Getegid(), mode)
		if got := ownerAndMode(t, path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestAnExistingDirectoryKeepsItsMode(t *testing.T) {
	f := tokenFile(t)
	if err := unix.Chmod(filepath.Dir(f.Path), 0o2775); err != nil {
		t.Fatal(err)
	}
	before := ownerAndMode(t, filepath.Dir(f.Path))
	issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}})
	if after := ownerAndMode(t, filepath.Dir(f.Path)); after != before {
		t.Errorf("the directory was %s and is %s", before, after)
	}
}

func TestAnExistingTokenFileKeepsItsMode(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o640, 0o644, 0o660, 0o400, 0o666} {
		f := withOneToken(t)
		if err := os.Chmod(f.Path, mode); err != nil {
			t.Fatal(err)
		}
		for name, change := range changesOf("c1") {
			if err := change(f); err != nil {
				t.Fatal(err)
			}
			if got := statOf(t, f.Path).Mode & 0o7777; got != uint32(mode) {
				t.Errorf("after %s the mode is %04o, not %04o", name, got, mode)
			}
		}
	}
}

// changesOf returns a change that adds a token and one that revokes the container's tokens.
func changesOf(container string) map[string]func(store.File) error {
	return map[string]func(store.File) error{
		"issue": func(f store.File) error {
			_, err := f.Issue(store.Entry{Token: tokenNamed("b"), Grant: store.Grant{Project: "demo", Task: "2"}, Container: "c2"})
			return err
		},
		"revoke": func(f store.File) error {
			_, _, err := f.RevokeContainer(container)
			return err
		},
	}
}

func TestRootKeepsOwnerGroupAndModeOrGivesTheFileToTheOwnerOfItsDirectory(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name      string
		directory string
		file      string // empty: not there
		want      string
		wantLock  string
	}{
		{"root's file", "0:0 0755", "0:0 0600", "0:0 0600", "0:0 0600"},
		{"a user's file", "1234:1234 0700", "1234:1234 0600", "1234:1234 0600", "1234:0 0600"},
		{"a user's file for a group", "1234:1234 0755", "1234:555 0640", "1234:555 0640", "1234:0 0600"},
		{"a user's file in root's directory", "0:0 0755", "1234:555 0660", "1234:555 0660", "1234:0 0600"},
		{"root's file for a group", "0:0 0755", "0:555 0640", "0:555 0640", "0:0 0600"},
		{"root's file in a user's directory", "1234:1234 0755", "0:0 0644", "0:0 0644", "0:0 0600"},
		{"a file of another user than the directory's", "1234:1234 0755", "4321:4321 0600", "4321:4321 0600", "4321:0 0600"},
		{"a file of the overflow id, which is an ordinary id outside user namespaces", "0:0 0755", "65534:65534 0600", "65534:65534 0600", "65534:0 0600"},
		{"a new file in root's directory", "0:0 0755", "", "0:0 0600", "0:0 0600"},
		{"a new file in a user's directory", "1234:1234 0700", "", "1234:0 0600", "1234:0 0600"},
		{"a new file in a directory that hands on its group", "1234:555 2770", "", "1234:555 0600", "1234:555 0600"},
		{"a new file in everybody's directory", "0:0 1777", "", "0:0 0600", "0:0 0600"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := tokenFile(t)
			give(t, filepath.Dir(f.Path), row.directory)
			if row.file != "" {
				write(t, f.Path, `{"x": {"project": "demo", "task": "1", "container": "c1"}}`)
				give(t, f.Path, row.file)
			}

			issue(t, f, store.Entry{Token: tokenNamed("a"), Grant: store.Grant{Project: "demo", Task: "1"}, Container: "c2"})
			if _, _, err := f.RevokeContainer("c2"); err != nil {
				t.Fatal(err)
			}

			for path, want := range map[string]string{f.Path: row.want, f.Path + ".lock": row.wantLock, filepath.Dir(f.Path): row.directory} {
				if got := ownerAndMode(t, path); got != want {
					t.Errorf("%s is %s, want %s", path, got, want)
				}
			}
		})
	}
}

// give sets owner, group and mode, written as by ownerAndMode.
func give(t *testing.T, path, ownerAndMode string) {
	t.Helper()
	var uid, gid int
	var mode uint32
	if _, err := fmt.Sscanf(ownerAndMode, "%d:%d %o", &uid, &gid, &mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// The directory's owner may put any file in the place of the lock file. Root must not give it away.
func TestRootGivesAwayOnlyItsOwnLockFile(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name string
		make func(t *testing.T, lock, secret string)
	}{
		{"a file that also has another name", func(t *testing.T, lock, secret string) {
			if err := os.Link(secret, lock); err != nil {
				t.Fatal(err)
			}
		}},
		{"a file that is not empty", func(t *testing.T, lock, secret string) { write(t, lock, "secret") }},
		{"another user's file", func(t *testing.T, lock, secret string) {
			write(t, lock, "")
			give(t, lock, "4321:4321 0600")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := tokenFile(t)
			secret := filepath.Join(filepath.Dir(f.Path), "secret")
			write(t, secret, "")
			row.make(t, f.Path+".lock", secret)
			give(t, filepath.Dir(f.Path), "1234:1234 0755")

			before := ownerAndMode(t, f.Path+".lock")
			if _, err := f.CreateToken("demo", "1"); err != nil {
				t.Fatal(err)
			}
			if after := ownerAndMode(t, f.Path+".lock"); after != before {
				t.Errorf("the lock file was %s and is %s", before, after)
			}
		})
	}
}

func TestAnOwnerOrGroupThatAUserCannotKeepIsAnError(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct{ name, file, want string }{
		{"another user's file", "4321:1234 0644", "operation not permitted"},
		{"root's file", "0:0 0644", "operation not permitted"},
		{"a file for a group that the user is not in", "1234:555 0640", "keep owner and group 1234:555"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := store.File{Path: filepath.Join(openDirectory(t), "tokens.json")}
			write(t, f.Path, `{"x": {"project": "demo", "task": "1"}}`)
			write(t, f.Path+".lock", "")
			give(t, filepath.Dir(f.Path), "1234:1234 0755")
			give(t, f.Path, row.file)
			give(t, f.Path+".lock", "1234:1234 0600")
			check := untouched(t, f.Path)
			cmd := helper(t, "issue", f.Path, "1m")
			cmd.Env = append(cmd.Env, uidVar+"=1234")
			wantError(t, failure(cmd), f.Path, row.want)
			check(t)
		})
	}
}

// Root's hook makes the file with root's group, which the gate's user cannot keep.
func TestAGroupWithoutRightsDoesNotPreventAReplacement(t *testing.T) {
	testenv.NeedRoot(t)
	f := store.File{Path: filepath.Join(openDirectory(t), "tokens.json")}
	give(t, filepath.Dir(f.Path), "1234:1234 0700")
	if _, err := f.CreateToken("demo", "1"); err != nil {
		t.Fatal(err)
	}
	if made := ownerAndMode(t, f.Path); made != "1234:0 0600" {
		t.Fatalf("root makes the file as %s", made)
	}
	cmd := helper(t, "issue", f.Path, "1m")
	cmd.Env = append(cmd.Env, uidVar+"=1234")
	output(t, cmd)
	if after := ownerAndMode(t, f.Path); after != "1234:1234 0600" {
		t.Errorf("after a replacement by its owner, the file is %s", after)
	}
}

func TestInAUserNamespaceAnOwnerThatIsNotMappedIsNotGivenUp(t *testing.T) {
	testenv.NeedRoot(t)
	for _, row := range []struct {
		name      string
		directory string
		file      string // empty: not there
		want      string // empty: refused
	}{
		{"all are mapped", "0:0 0755", "1234:555 0640", "1234:555 0640"},
		{"the group is not mapped", "0:0 0755", "0:70000 0640", ""},
		{"the owner is not mapped", "0:0 0755", "70000:0 0644", ""},
		{"neither is mapped", "0:0 0755", "70000:70000 0644", ""},
		{"the group of the directory, which is not kept, is not mapped", "0:70000 0755", "0:0 0600", "0:0 0600"},
		{"a new file, and the owner of the directory is not mapped", "70000:0 0777", "", ""},
		{"a new file, and the owner of the directory is mapped", "1234:0 0755", "", "1234:0 0600"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := store.File{Path: filepath.Join(openDirectory(t), "tokens.json")}
			give(t, filepath.Dir(f.Path), row.directory)

			var check func(*testing.T)
			if row.file != "" {
				write(t, f.Path, `{"x": {"project": "demo", "task": "1", "container": "c1"}}`)
				give(t, f.Path, row.file)
				check = untouched(t, f.Path)
			}

			cmd := helper(t, "issue", f.Path, "1m")
			cmd.SysProcAttr = &privateUsers
			err := failure(cmd)

			if _, statErr := os.Stat(f.Path + ".lock"); statErr == nil {
				if uid := statOf(t, f.Path+".lock").Uid; uid == 65534 {
					t.Error("the lock file was given to the overflow id 65534")
				}
			}

			if row.want != "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := ownerAndMode(t, f.Path); got != row.want {
					t.Errorf("the file is %s, want %s", got, row.want)
				}
				return
			}
			wantError(t, err, f.Path, "not mapped into this user namespace", "give the file to the user that runs the engine")
			if check != nil {
				check(t)
			} else if names := namesIn(t, filepath.Dir(f.Path)); names["tokens.json"] || len(names) > 1 {
				t.Errorf("the directory holds %v", names)
			}
		})
	}
}
