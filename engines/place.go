// Defines where the files of an installation are, for the system and for a user.

package engines

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"terok-gate-hook/internal/control"
)

// Place is where the files of an installation are.
type Place struct {
	Hooks   string // directory for hook definitions
	DropIn  string // drop-in for containers.conf
	Devices string // file of devices (CDI)
	Units   string // directory for systemd's units
	Repos   string // the gate's directory of repositories
	Control string // the gate's control socket
	User    bool   // of one user, not of the system
	Moved   bool   // the user's XDG_CONFIG_HOME names a directory other than ~/.config
	Runtime string // the user's XDG_RUNTIME_DIR
	Systemd bool   // there is a systemd that could run a unit
}

// OwnPlace returns the place at which this user installs.
func OwnPlace() (Place, error) {
	if os.Geteuid() == 0 {
		return systemPlace(), nil
	}
	return userPlace()
}

// systemPlace returns the place at which root installs. It is not below /usr, which belongs to
// packages and can be read-only (podman machine, Fedora CoreOS). Definitions are not in oci/hooks.d,
// which CRI-O (1.34.0) and NRI's hook-injector can read, too: neither starts if a definition there is
// for a stage that only podman knows.
func systemPlace() Place {
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	repos, _ := control.DefaultRepos()       // no error for root
	return Place{
		Hooks:   "/etc/containers/oci/podman-hooks.d",
		DropIn:  "/etc/containers/containers.conf.d/99-terok-gate.conf",
		Devices: "/etc/cdi/" + devicesName,
		Units:   "/etc/systemd/system",
		Repos:   repos,
		Control: control.DefaultSocket(),
		Systemd: err == nil,
	}
}

// userPlace returns the place at which a user installs, for the user's rootless engines.
func userPlace() (Place, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return Place{}, err
	}

	usual := filepath.Join(home, ".config")
	config := usual
	if moved := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(moved) {
		config = filepath.Clean(moved)
	}

	// After su and sudo, XDG_RUNTIME_DIR is not set. Podman then looks in /run/user by itself.
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if runtime == "" {
		runtime = fmt.Sprintf("/run/user/%d", os.Getuid())
	}

	repos, err := control.DefaultRepos()
	if err != nil {
		return Place{}, err
	}

	_, err = os.Stat(filepath.Join(runtime, "systemd/private")) // the user's service manager
	return Place{
		Hooks:   filepath.Join(config, "containers/oci/podman-hooks.d"),
		DropIn:  filepath.Join(config, "containers/containers.conf.d/99-terok-gate.conf"),
		Devices: filepath.Join(usual, "cdi", devicesName),
		Units:   filepath.Join(usual, "systemd/user"), // the service manager does not know XDG_CONFIG_HOME
		Repos:   repos,
		Control: control.DefaultSocket(),
		User:    true,
		Moved:   config != usual,
		Runtime: runtime,
		Systemd: err == nil,
	}, nil
}

// definitionPrefix begins the names of our definitions, wherever they are.
const definitionPrefix = "99-terok-gate-"

// definitionPaths returns the paths of the definitions that exist under our names.
func (p Place) definitionPaths() []string { return glob(p.Hooks, definitionPrefix+"*.json") }

// unit returns the path of a unit.
func (p Place) unit(name string) string { return filepath.Join(p.Units, name) }

// unitPaths returns the paths of a unit and of the links that enable it. (If systemd runs, systemctl
// removes the links.)
func (p Place) unitPaths(name string) []string {
	return append(glob(p.Units, "*.wants/"+name), p.unit(name))
}

// glob returns the paths in the directory that match the pattern. The directory's name
// is no pattern.
func glob(dir, pattern string) []string {
	names, _ := fs.Glob(os.DirFS(dir), pattern) // fails for a bad pattern only
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names
}
