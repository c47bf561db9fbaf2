package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The container's process lives, and podman says of the container what the row says.
func TestDoctorComparesLivingTokensWithWhatPodmanKnows(t *testing.T) {
	for _, row := range []struct {
		podman string // prints its containers and their states
		state  State
		text   string
	}{
		{`echo '[{"Id": "living", "State": "running"}]'`, OK, "none"},
		{`echo '[{"Id": "living", "State": "paused"}]'`, OK, "none"},
		{`echo '[{"Id": "living", "State": "created"}]'`, OK, "none"}, // about to start
		{`echo '[{"Id": "living", "State": "stopping"}]'`, OK, "none"},
		{`echo '[{"Id": "living", "State": "exited"}]'`, Warning, "podman says that container living is exited, but its process"},
		{`echo '[{"Id": "living", "State": "stopped"}]'`, Warning, "podman says that container living is stopped, but its process"},
		{`echo '[{"Id": "another", "State": "running"}]'`, Warning, "podman does not know container living, but its process"},
		{`kill -9 $LIVING; until [ "$(cut -d" " -f3 /proc/$LIVING/stat)" = Z ]; do :; done; echo []`, OK, "none"}, // it ended in the meantime
	} {
		t.Run(row.podman, func(t *testing.T) {
			p := newPatient(t)
			living := hold(t, p, "living")
			t.Setenv("LIVING", fmt.Sprint(living.Process.Pid))
			bin := t.TempDir()
			must(t, os.WriteFile(filepath.Join(bin, "podman"), []byte("#!/bin/sh\n"+row.podman+"\n"), 0o755))
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			found := oneCheck("forgotten", Doctor{Binary: "/bin/none/terok-gate-hook", TokenFile: p.tokens})
			finds(t, found, "forgotten", row.state, row.text)
			if want := "/bin/none/terok-gate revoke --container living"; row.state != OK && found[0].Remedy != want {
				t.Errorf("what fixes it is %s, not %s", found[0].Remedy, want)
			}
		})
	}
}
