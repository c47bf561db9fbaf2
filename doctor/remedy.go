// Composes remedies: a command to paste or, where there is a choice, a sentence.

package doctor

import (
	"cmp"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
)

// asRoot returns a remedy with a command that only root can run.
func asRoot(words ...string) string {
	if os.Geteuid() != 0 {
		return "as root: " + printable.Shell(words...)
	}
	return printable.Shell(words...)
}

// asOwner returns a remedy with a command that only the file's owner or root can run.
func asOwner(info fs.FileInfo, words ...string) string {
	if owner.UID(info) == os.Geteuid() {
		return printable.Shell(words...)
	}
	return asRoot(words...)
}

// asUser returns a remedy with a command that runs as a user. Root must not run the command itself: the
// user's directories may contain traps.
func asUser(uid int, words ...string) string {
	if uid == os.Geteuid() {
		return printable.Shell(words...)
	}
	return asRoot(append([]string{"runuser", "-u", userName(uid), "--"}, words...)...)
}

// chown returns the command that gives files to a user. The command does not follow links: a user who can
// write to a file's directory may put a link there, to /etc/shadow say, before the command is pasted.
func chown(user string, paths ...string) string {
	return printable.Shell(append([]string{"chown", "-h", user}, paths...)...)
}

// chownAsRoot is [chown] as a remedy that only root can run.
func chownAsRoot(user, path string) string { return asRoot("chown", "-h", user, path) }

// takeOver returns the command by which root takes a directory from another user. It returns fallback if a
// file in the directory belongs to a user other than root and us. It also returns fallback if path is a file:
// the content would still be the other user's.
func takeOver(path, fallback string) string {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return fallback
	}
	files, err := os.ReadDir(path)
	theirs := func(file fs.DirEntry) bool {
		info, err := file.Info()
		return err != nil || owner.UID(info) != 0 && owner.UID(info) != os.Geteuid()
	}
	if err != nil || slices.ContainsFunc(files, theirs) {
		return fallback
	}
	return chownAsRoot("root", path)
}

// tokenFileElsewhere returns the remedy if the token file is in another user's hands.
func (e *examination) tokenFileElsewhere() string {
	return e.self("F", "install") + ", where F is in a directory of its own, which no other user can change"
}

// programsElsewhere returns the remedy if the programs are in another user's hands: that user
// may have replaced them by now.
func (e *examination) programsElsewhere() string {
	return "install terok-gate-hook and terok-gate anew where no other user can write, in /usr/local/bin say, and there run: " + e.install()
}

// aside returns the command that moves a file out of the way.
func aside(path string) string { return printable.Shell("mv", path, path+".away") }

// self returns a command of terok-gate, with --token-file unless tokenFile is empty.
func (e *examination) self(tokenFile string, args ...string) string {
	if tokenFile != "" {
		args = append([]string{"--token-file", tokenFile}, args...)
	}
	self := filepath.Join(filepath.Dir(e.Binary), "terok-gate")
	return printable.Shell(append([]string{called("terok-gate", self)}, args...)...)
}

// called returns the word by which a shell finds a program of ours: its name or its path.
func called(name, path string) string {
	if found, err := exec.LookPath(name); err == nil && sameFile(found, path) {
		return name
	}
	return path
}

// ourselves returns a command of terok-gate, with the token file that the doctor was given, if any.
func (e *examination) ourselves(args ...string) string { return e.self(e.given.TokenFile, args...) }

// withLogFile returns a command of terok-gate that reads the log, with the token file and the log file that
// the doctor was given, if any.
func (e *examination) withLogFile(args ...string) string {
	if e.given.LogFile != "" {
		args = append([]string{"--log-file", e.given.LogFile}, args...)
	}
	return e.ourselves(args...)
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// install returns the command that registers the hooks again, with these flags. The command keeps the
// settings of the last install. If there was none, or its settings cannot be read or are invalid, the
// command spells out the settings in force. The command never admits more projects than before: if it is
// unknown which projects were admitted, the user has to choose.
func (e *examination) install(flags ...string) string {
	before, there, err := e.Place.Registration()
	err = cmp.Or(err, before.Settings.Check())
	if there && err == nil {
		if e.imagesAnnotate && len(before.Settings.AllowProjects) == 0 {
			return e.allowing(withFlags([]string{"install"}, flags))
		}
		return e.ourselves(withFlags([]string{"install"}, flags)...)
	}

	anew, unknown, first := engines.Registration{Watch: true}, there, e.registered("prestart")
	if first != nil {
		unknown = first.Err != nil || first.Settings.Check() != nil || changeable(first.Path)
	}
	if first != nil && !unknown {
		anew.Settings = first.Settings
	}

	if !isOurs(filepath.Dir(anew.Settings.GateSocket)) {
		anew.Settings.GateSocket = "" // install sets up a gate of our own
	}
	if anew.Gate = anew.GateByDefault(); anew.Gate {
		anew.Fleet = before.Fleet
	}
	anew.Settings.Tokens.Path, anew.Settings.LogFile, anew.Settings.EnvDir = "", "", "" // these may be root's

	remedy := ""
	if there {
		remedy = e.ourselves("uninstall") + " && "
		anew.Settings.LogFile = e.LogFile
		if e.given.TokenFile == "" {
			anew.Settings.Tokens.Path = e.TokenFile
		}
	}

	args := withFlags(anew.InstallArgs(), flags)
	if unknown || e.imagesAnnotate && len(anew.Settings.AllowProjects) == 0 {
		return remedy + e.allowing(args)
	}
	return remedy + e.ourselves(args...)
}

// isOurs reports whether a gate of ours may have its socket in a directory. If we are root, any
// directory will do. Otherwise the directory must belong to us.
func isOurs(dir string) bool {
	info, err := os.Stat(dir)
	return os.Geteuid() == 0 || err == nil && owner.UID(info) == os.Geteuid()
}

// installLike returns an install command with the settings of these definitions.
func (e *examination) installLike(definitions []engines.Registered) string {
	like := *e
	like.definitions = definitions
	return like.install()
}

// withFlags adds flags with their values to the words of an install command. A flag that
// applies to all commands goes before the word install, and any other flag goes to the end.
func withFlags(install, flags []string) []string {
	install = slices.Clone(install)
	for i := 0; i < len(flags); i += 2 {
		at := len(install)
		if slices.ContainsFunc(hook.Flags, func(f hook.Flag) bool { return f.Common() && "--"+f.Name == flags[i] }) {
			at = 0
		}
		install = slices.Insert(install, at, flags[i:i+2]...)
	}
	return install
}

// allowing returns an install command in which the user has to fill in the projects.
func (e *examination) allowing(install []string) string {
	return e.ourselves(append(install, "--allow-project")...) + " PATTERN, where PATTERN names the projects that containers may ask for: 'demo-*', say"
}

// again returns the command that examines the same things again, with more flags.
func (e *examination) again(flags ...string) string {
	args := []string{"doctor"}
	for _, f := range [][2]string{
		{"--gate-url", e.given.GateURL}, {"--gate-user", e.given.GateUser}, {"--project", e.given.Project},
		{"--network", e.given.Network}, {"--image", e.given.Image},
	} {
		if f[1] != "" && !slices.Contains(flags, f[0]) {
			args = append(args, f[0], f[1])
		}
	}
	return e.withLogFile(append(args, flags...)...)
}

// packages returns the command that installs packages, by their names on Debian or Fedora. On other systems,
// it returns the argument elsewhere.
func packages(debian, fedora []string, elsewhere string) string {
	if _, err := exec.LookPath("apt-get"); err == nil {
		return asRoot(append([]string{"apt-get", "install"}, debian...)...)
	}
	if _, err := exec.LookPath("dnf"); err == nil {
		return asRoot(append([]string{"dnf", "install"}, fedora...)...)
	}
	return elsewhere
}

// owners returns a remedy that shows who may reach the path.
func owners(path string) string {
	return "see who may reach it: " + printable.Shell("namei", "-l", path)
}
