package hook

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

// Another container may share a directory with the container that starts, and may put something
// else in the place of a new directory. Where the root user of the container that starts may not
// create a directory, the host's root does not create it either.
func TestAMissingDirectoryIsMadeAsTheContainersRootUser(t *testing.T) {
	testenv.NeedRoot(t)
	ids := idMaps{uid: idMap{{0, 100000, 1000}}, gid: idMap{{0, 200000, 1000}}}
	for _, row := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
		made     bool
	}{
		{"in a directory of the container's root", 100000, 200000, 0o755, true},
		{"in a directory that the container's root group may write", 0, 200000, 0o775, true},
		{"not in a directory of the host's root", 0, 0, 0o755, false},
		{"not in a directory of another container's", 100001, 200001, 0o755, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			must(t, os.Chmod(root, 0o755))
			must(t, os.Chmod(filepath.Dir(root), 0o755))
			run := filepath.Join(root, "run")
			must(t, os.Mkdir(run, row.mode))
			must(t, os.Chmod(run, row.mode))
			must(t, os.Chown(run, row.uid, row.gid))

			err := onThreadOfItsOwn(func() error {
				// A runtime makes a container's mounts private, too. systemd makes the host's shared.
				if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
					return err
				}
				if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
					return err
				}
				point, err := openMountPoint(root, ids, mountsKnown{})
				if err == nil {
					point.Close()
				}
				return err
			})

			info, statErr := os.Lstat(filepath.Join(run, "terok"))
			if !row.made {
				if err == nil || !strings.Contains(Detail(err), "/run/terok") || statErr == nil {
					t.Errorf("the error is %v; the directory: %v", err, statErr)
				}
				return
			}

			must(t, err)
			must(t, statErr)
			if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 100000 || owner.Gid != 200000 {
				t.Errorf("the directory belongs to %d:%d", owner.Uid, owner.Gid)
			}
		})
	}
}

// Podman writes poststop's state, and may need six bytes where the runtime needed
// one: what prestart took, poststop takes.
func TestPoststopTakesALargerStateThanPrestart(t *testing.T) {
	state := `{"id":"a","annotations":{"terok.project":"demo","terok.task":"1","more":"` + strings.Repeat("<", stateLimit) + `"}}`
	h := Settings{EnvDir: t.TempDir()}
	h.Tokens.Path = filepath.Join(t.TempDir(), "tokens.json")
	if _, err := h.Prestart(strings.NewReader(state)); err == nil {
		t.Error("prestart takes more than its limit")
	}
	if _, err := h.Poststop(strings.NewReader(strings.ReplaceAll(state, "<", `\u003c`))); err != nil {
		t.Error(err)
	}
}

// A volume may be meant to be read-only, and its owner may not want the directory.
func TestAMissingDirectoryIsNotMadeInADirectoryOfTheHost(t *testing.T) {
	const shm = "/dev/shm"
	if !strings.Contains(mounts(t, "self")[shm], " - tmpfs ") {
		testenv.Cannot(t, "%s is no tmpfs", shm)
	}

	ours, err := os.MkdirTemp(shm, "terok-hook-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(ours) })

	for _, row := range []struct {
		name   string
		mounts func(c *container, run string) []mount
		run    string // where /run leads
		made   bool
	}{
		{"on the root file system", func(*container, string) []mount { return nil }, "", true},
		{"on a tmpfs of the container's own", func(c *container, run string) []mount {
			return []mount{{Source: "tmpfs", Target: run, Type: "tmpfs"}}
		}, "", true},
		{"not on a bind mount", func(c *container, run string) []mount {
			return []mount{{Source: filepath.Join(c.outside, "directory"), Target: run, Flags: unix.MS_BIND}}
		}, "", false},
		{"not in a directory of a bind mount", func(c *container, run string) []mount {
			return []mount{{Source: c.outside, Target: run, Flags: unix.MS_BIND}}
		}, "directory", false},
		{"not on a tmpfs of the host's", func(c *container, run string) []mount {
			return []mount{{Source: shm, Target: run, Flags: unix.MS_BIND}}
		}, filepath.Base(ours), false},
		{"not on a directory of the host's tmpfs", func(c *container, run string) []mount {
			return []mount{{Source: ours, Target: run, Flags: unix.MS_BIND}}
		}, "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := prepare(t)
			run := filepath.Join(c.rootfs, "run")
			if row.run != "" {
				run = filepath.Join(c.rootfs, "mnt")
				must(t, os.Symlink("mnt/"+row.run, filepath.Join(c.rootfs, "run")))
			}
			must(t, os.Mkdir(run, 0o755))
			c.start(t, 0, row.mounts(c, run)...)

			outside := tree(t, c.outside)
			if !row.made {
				c.refuses(t, " in the container's root file system: does not exist, and the hook creates no directory on a bind mount or a volume: create it")
			} else if _, err := c.prestart(t, "crun", nil); err != nil {
				t.Error(err)
			}

			sameTree(t, outside, tree(t, c.outside))
			if made, err := os.ReadDir(ours); err != nil || len(made) > 0 {
				t.Errorf("on the host's tmpfs there is %v, %v", made, err)
			}
		})
	}
}

// A directory that the owner of a volume has put there is used.
func TestADirectoryInAVolumeIsMountedOn(t *testing.T) {
	c := prepare(t)
	must(t, os.MkdirAll(filepath.Join(c.rootfs, "run"), 0o755))
	must(t, os.Mkdir(filepath.Join(c.outside, "directory/terok"), 0o755))
	c.start(t, 0, mount{Source: filepath.Join(c.outside, "directory"), Target: filepath.Join(c.rootfs, "run"), Flags: unix.MS_BIND})
	_, err := c.prestart(t, "crun", nil)
	must(t, err)
	if _, err := os.Lstat(c.inside("/run/terok/gate.env")); err != nil {
		t.Error(err)
	}
}
