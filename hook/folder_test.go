package hook

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// A container that shares a folder with the one that starts may put something else
// in the place of a new folder; and where the container's own root may not create
// one, the host's root does not do it for it.
func TestAMissingFolderIsMadeAsTheContainersRootUser(t *testing.T) {
	testenv.NeedRoot(t)
	ids := idMaps{uid: idMap{{0, 100000, 1000}}, gid: idMap{{0, 200000, 1000}}}
	for _, row := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
		made     bool
	}{
		{"in a folder of the container's root", 100000, 200000, 0o755, true},
		{"in a folder that the container's root group may write", 0, 200000, 0o775, true},
		{"not in a folder of the host's root", 0, 0, 0o755, false},
		{"not in a folder of another container's", 100001, 200001, 0o755, false},
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
				point, err := openMountPoint(root, "/run/terok", ids)
				if err == nil {
					point.Close()
				}
				return err
			})
			info, statErr := os.Lstat(filepath.Join(run, "terok"))
			if !row.made {
				if err == nil || !strings.Contains(Detail(err), "/run/terok") || statErr == nil {
					t.Errorf("the error is %v; the folder: %v", err, statErr)
				}
				return
			}
			must(t, err)
			must(t, statErr)
			if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 100000 || owner.Gid != 200000 {
				t.Errorf("the folder belongs to %d:%d", owner.Uid, owner.Gid)
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
