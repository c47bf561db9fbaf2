// Registers the gate beside the hooks: its program, its user and its directories.

package engines

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

const gateBinary = "terok-gate"

// GateUser is the user that root's gate runs as, if systemd runs the gate.
const GateUser = "terok-gate"

// GateLog is the log file of root's gate. (The gate must not write to the log file of root's hooks.)
// The gate's user owns the directory of the log file, and root the directory above it.
const GateLog = "/var/log/terok-gate/gate/trail.log"

// GateBinary returns the path of the gate's program, beside the hook's.
func (r Registration) GateBinary() string { return filepath.Join(filepath.Dir(r.Binary), gateBinary) }

// GateByDefault reports whether no other gate is named: install then sets up a gate of ours unless
// told otherwise.
func (r Registration) GateByDefault() bool {
	return r.Settings.GateURL == "" && r.Settings.GateSocket == ""
}

// MakeRepos makes a missing directory of repositories before install is run. The gate's default
// directory is given to the gate's user, if that user exists already.
func (p Place) MakeRepos(ctx context.Context, repos string) error {
	if _, err := os.Stat(repos); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f := directory{path: repos}
	if repos == p.Repos && !p.User && p.Systemd {
		f.owner, _ = gateAccount() // if there is no such user, install says how to make one
	}
	if err := f.checkAbove(); err != nil {
		return err
	}
	return f.make(ctx)
}

// gateDirectories returns the directories to be made for the gate. An error says what else the gate
// needs on this machine.
func (r Registration) gateDirectories(place Place) (missing []directory, err error) {
	if _, err := exec.LookPath("git"); err != nil && r.Fleet.RepositoryGate == "" {
		return nil, fmt.Errorf("the gate runs git: %w: install it", err)
	}
	if _, err := os.Stat(place.Runtime); place.User && r.Settings.GateSocket == place.Control && err != nil {
		return nil, fmt.Errorf("the directory for the gate's socket: %w: set XDG_RUNTIME_DIR to a directory of your own, for podman and terok-gate serve too", err)
	}

	var runsAs *account
	if !place.User && place.Systemd {
		if runsAs, err = gateAccount(); err != nil {
			return nil, err
		}
		if err := runsAs.checkTokenFile(r.Settings.Tokens.Path); err != nil {
			return nil, err
		}
	}

	if err := r.Fleet.check(runsAs); err != nil {
		return nil, err
	}

	paths := []string{filepath.Dir(r.Settings.Tokens.Path)}
	if r.Fleet.RepositoryGate == "" {
		paths = append([]string{r.Repos}, paths...)
	}
	for _, path := range paths {
		f := directory{path, runsAs}
		is, err := f.isThere()
		if err != nil {
			return nil, err
		}
		if !is {
			missing = append(missing, f)
		}
	}
	return missing, nil
}
