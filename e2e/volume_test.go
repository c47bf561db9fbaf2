package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Our mount point can be in a volume, where only the volume's owner should make a directory.
// The hook never tries, since it might succeed: crun makes a volume read-only only after our hook
// has run, and root may write, whatever the permissions say.

func TestNoDirectoryIsMadeInAVolume(t *testing.T) {
	onRootAndRootless(t, func(t *testing.T, e *engine) {
		for _, row := range []struct {
			name, options string
			volume        func(t *testing.T, dir string)
			rootOnly      bool
		}{
			{name: "writable"},
			{name: "read-only", options: ":ro"},
			{name: "of another user's", rootOnly: true, volume: func(t *testing.T, dir string) {
				if err := os.Chown(dir, testUID, testUID); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "a tmpfs of the host's", rootOnly: true, volume: func(t *testing.T, dir string) {
				if err := unix.Mount("terok-e2e", dir, "tmpfs", 0, "mode=0755"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
				if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			if row.rootOnly && e.rootless {
				continue
			}

			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				own := e.withTokenFile(t, othersTokens).withHooks(t, hookFlags{}, nil)
				dir := e.tempDir(t)
				if row.volume != nil {
					row.volume(t, dir)
				}

				args := append(annotations("demo", "1"), "--volume", dir+":/run"+row.options)
				own.refuses(t, args, "failed", "/run/terok in the container's root file system: does not exist", "create it")
				// Podman and crun put something of their own into /run.
				if _, err := os.Lstat(filepath.Join(dir, "terok")); !os.IsNotExist(err) {
					t.Errorf("the volume has our directory: %v", err)
				}
			})
		}
	})
}

func TestTheMountPointMayBeInATmpfsOrInAVolumeThatHasIt(t *testing.T) {
	onCrunAndRunc(t, func(t *testing.T, e *engine) {
		for _, row := range []struct {
			name   string
			args   []string
			volume string // options of a volume on /run that has the directory; empty: no volume
		}{
			{name: "a volume", volume: ":rw"},
			{name: "a read-only volume", volume: ":ro"},
			{name: "a read-only root", args: []string{"--read-only"}},
			{name: "a tmpfs", args: []string{"--tmpfs", "/run"}},
			{name: "a read-only root and a tmpfs", args: []string{"--read-only", "--tmpfs", "/run:rw,size=64k"}},
		} {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				args := slices.Concat(annotations("demo", "volume"), row.args)
				if row.volume != "" {
					dir := e.tempDir(t)
					if err := e.mkdir(filepath.Join(dir, "terok")); err != nil {
						t.Fatal(err)
					}
					args = append(args, "--volume", dir+":/run"+row.volume)
				}

				c := e.create(t, args...)
				c.holdsToken(t, c.start(t), "demo", "volume")
				c.podman(t, "stop", "--time", "0", c.id)
			})
		}
	})
}
