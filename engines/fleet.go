// Sets up a gate that works with gates on other machines: checks its certificate and other files, and
// gives its unit access to them and to the network.

package engines

import (
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"terok-gate-hook/internal/mtls"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/voucher"
	"terok-gate-hook/store"
)

// Fleet holds the flags of terok-gate serve that are about gates on other machines. Paths are absolute.
type Fleet struct {
	RepositoryGate string // the URL of the gate with the repositories; empty: this gate has them
	Listen         string // the address at which this gate serves the gates on hosts of containers; empty: none
	VouchFile      string // the file that says which hosts may vouch for which projects
	Cert, Key, CA  string // PEM files
}

// fleetFlag is a flag of terok-gate serve, and of install.
type fleetFlag struct {
	Name  string
	Value *string
	Path  bool
}

// Flags returns the flags, each with the field that it sets.
func (f *Fleet) Flags() []fleetFlag {
	return []fleetFlag{
		{"repository-gate", &f.RepositoryGate, false},
		{"tls-listen", &f.Listen, false}, {"vouch-file", &f.VouchFile, true},
		{"tls-cert", &f.Cert, true}, {"tls-key", &f.Key, true}, {"tls-ca", &f.CA, true},
	}
}

// Args returns the arguments that set the fields.
func (f Fleet) Args() (args []string) {
	for _, flag := range f.Flags() {
		if *flag.Value != "" {
			args = append(args, "--"+flag.Name, *flag.Value)
		}
	}
	return args
}

// IsNone reports whether the gate works with no other gate.
func (f Fleet) IsNone() bool { return f.RepositoryGate == "" && f.Listen == "" }

// files returns the paths of the files.
func (f Fleet) files() (paths []string) {
	for _, flag := range f.Flags() {
		if flag.Path && *flag.Value != "" {
			paths = append(paths, *flag.Value)
		}
	}
	return paths
}

// check returns an error if the user runsAs could not use the files, or if the other gate would refuse
// the certificate. If runsAs is nil, the gate runs as this user.
func (f Fleet) check(runsAs *account) error {
	if f.IsNone() {
		return nil
	}
	if runsAs == nil {
		runsAs = &account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	}
	for _, path := range f.files() {
		if err := runsAs.checkReads(path, path == f.Key); err != nil {
			return err
		}
	}

	identity, err := mtls.New(f.Cert, f.Key, f.CA)
	if err != nil {
		return err
	}
	usage := x509.ExtKeyUsageClientAuth
	if f.Listen != "" {
		usage = x509.ExtKeyUsageServerAuth
		if _, err := voucher.NewHosts(nil, f.VouchFile); err != nil {
			return err
		}
	}
	_, _, err = identity.Chain(usage)
	return err
}

// checkReads returns an error if the user cannot read the file, or if any other user except root can
// replace it. If the file is secret, no other user except root may be able to read it.
func (a *account) checkReads(path string, secret bool) error {
	inside, err := store.InUserNamespace()
	if err != nil {
		return err
	}
	way, err := owner.Way(path)
	if err != nil {
		return err
	}
	for _, step := range way {
		if uid := step.UID(); uid != int(a.uid) && owner.IsAnother(uid, inside) || step.IsWorldWritable() {
			return fmt.Errorf("%s: another user can replace it, by way of %s", path, step.Path)
		}
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}

	closed := owner.ClosedTo(path, a.uid, a.gid)
	hidden := fs.FileMode(0)
	if secret {
		hidden = 0o007
		if owner.GID(info) != int(a.gid) || a.name == "" { // no group may read the key, except the gate's own
			hidden = 0o077
		}
	}
	switch {
	case len(closed) > 0 && a.uid != 0:
		return fmt.Errorf("%s: directory %s is closed to the gate, which runs as user %s: have the file in another directory, such as /etc/terok-gate", path, closed[0], a.name)
	case info.Mode()&hidden != 0:
		return fmt.Errorf("%s: others than the gate can read the key: %s", path, printable.Shell("chmod", "go-rwx", path))
	case a.uid != 0 && !owner.May(info, a.uid, a.gid, 0o4):
		return fmt.Errorf("%s: the gate, which runs as user %s, cannot read it: %s", path, a.name, printable.Shell("chown", "-h", a.name+":", path))
	}
	return nil
}

// connect gives the gate's unit access to the network and to the files.
func (f Fleet) connect(unit string) string {
	if f.IsNone() {
		return unit
	}
	unit = replaceLine(unit, "PrivateNetwork=", "no")
	unit = replaceLine(unit, "RestrictAddressFamilies=", "AF_UNIX AF_INET AF_INET6")
	for _, path := range f.files() {
		unit = uncover(unit, path)
	}
	return unit
}

// uncover lets a service see a path that is hidden from it by default.
func uncover(unit, path string) string {
	for _, hidden := range []string{"/home/", "/root/", "/run/user/"} {
		if strings.HasPrefix(path, hidden) {
			unit = replaceLine(unit, "ProtectHome=", "no")
		}
	}
	for _, own := range []string{"/tmp/", "/var/tmp/"} {
		if strings.HasPrefix(path, own) {
			unit = replaceLine(unit, "PrivateTmp=", "no")
		}
	}
	return unit
}

// projects returns the projects that may be devices: those that have a repository or, if the
// repositories are on another machine, those that the hooks admit by name.
func (r Registration) projects() (projects []string, err error) {
	if r.Fleet.RepositoryGate == "" {
		return projectsIn(r.Repos)
	}
	for _, pattern := range r.Settings.AllowProjects {
		if store.CheckName(pattern) == nil {
			projects = append(projects, pattern)
		}
	}
	return projects, nil
}
