// Checks that the gate answers at the socket that the hooks use, and is the right gate.

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/owner"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/version"
	"terok-gate-hook/store"
)

// terokGate asks the gate at the hooks' socket for its version and settings. Without this gate, no container
// that asks for a project starts.
func (e *examination) terokGate() {
	socket := e.settings.GateSocket
	if socket == "" {
		return
	}

	fine := e.gateProgram()
	fine = e.controlDirectory(filepath.Dir(socket)) && fine

	gate, err := ask(socket, control.Request{})
	if err == nil {
		e.theGate = &gate
	}

	if e.GateUser == "" && fine {
		e.GateUser = userName(e.gateUID())
	}
	if err != nil {
		e.noGate(err)
		e.stop()
		return
	}

	if running := gate.Program; running != version.String() {
		fine = false
		text := fmt.Sprintf("the gate that runs is %s, and terok-gate-hook is %s", running, version.String())
		if e.gateVersion() == version.String() {
			e.warn(text, e.restartGate())
		} else {
			e.warn(text, e.bothPrograms()+", and then: "+e.restartGate())
		}
	} else if installed := e.gateVersion(); installed != "" && installed != running {
		fine = false
		e.warn(fmt.Sprintf("%s is %s, and terok-gate-hook is %s", e.gateBinary(), installed, version.String()), e.bothPrograms())
	}

	if file, err := e.hooksTokenFile(); err == nil && !samePlace(file, gate.TokenFile) {
		e.broken(fmt.Sprintf("the gate reads %s, and the hooks write %s: it knows none of their tokens", gate.TokenFile, file), e.gateAnew())
		e.stop()
		return
	}

	if fine {
		repos := gate.Repos
		if gate.RepositoryGate != "" { // another user's gate may say anything
			repos = printable.Line(gate.RepositoryGate)
		}
		e.ok(fmt.Sprintf("a gate answers at %s, as user %s, with the repositories of %s", socket, userName(gate.UID), repos))
	}
}

// gateProgram reports whether only root and we can change the gate's program.
func (e *examination) gateProgram() bool {
	who, where, remedy := writers(e.gateBinary(), e.programsElsewhere())
	if who != "" {
		text := fmt.Sprintf("%s can change %s, which runs as the gate", who, e.gateBinary())
		if where != e.gateBinary() {
			text += ", by way of " + where
		}
		e.broken(text, remedy)
	}
	return who == ""
}

// ask asks the gate or terok-gate forward at a control socket. If healthy, the program answers within a
// millisecond, or as soon as it has tried the service or the other gate that the request is about.
func ask(socket string, about control.Request) (control.Gate, error) {
	return control.Ask(socket, time.Now().Add(5*time.Second), about)
}

// controlDirectory reports whether the directory of the gate's socket is safe from other users, who
// could put another gate there. If the directory does not exist, there is no gate, and
// controlDirectory returns true.
func (e *examination) controlDirectory(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return true
	}

	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		remedy := asOwner(info, "chmod", "0700", dir)
		if !holdsOnly(dir, filepath.Base(e.settings.GateSocket)) { // such as /run
			remedy = e.socketElsewhere()
		}
		e.broken(fmt.Sprintf("directory %s has mode %04o: no gate starts where others could put a gate of theirs", dir, mode), remedy)
		return false
	}

	elsewhere := e.socketElsewhere()
	if e.settings.GateSocket == e.Place.Control {
		elsewhere = aside(dir) + " && " + e.restartGate()
	}
	who, where, remedy := writers(dir, elsewhere, e.gateUID())
	if who == "" {
		return true
	}

	if where == realPath(dir) {
		remedy = elsewhere
		if os.Geteuid() == 0 {
			remedy = e.isItTheGates(owner.UID(info), takeOver(where, elsewhere))
		}
	}
	e.broken(fmt.Sprintf("%s can put another gate at %s, by way of %s", who, e.settings.GateSocket, where), remedy)
	return false
}

// socketElsewhere returns the command that makes the hooks use a gate of our own, at the default
// socket.
func (e *examination) socketElsewhere() string {
	if _, there, _ := e.Place.Registration(); !there && e.Place.User {
		return e.install() // the hooks are root's
	}
	return e.install("--gate-socket", e.Place.Control) + ", which is in a directory of the gate's own; and start the gate there"
}

// holdsOnly reports whether a directory is empty or holds only this file.
func holdsOnly(dir, name string) bool {
	files, err := os.ReadDir(dir)
	return err == nil && (len(files) == 0 || len(files) == 1 && files[0].Name() == name)
}

// gateUID returns the uid that the gate runs as or, if no gate answers, would run as.
func (e *examination) gateUID() int {
	name := e.GateUser
	switch {
	case e.theGate != nil:
		return e.theGate.UID
	case name == "" && !e.Place.User && e.gateUnit() != "":
		name = engines.GateUser
	}
	if account, err := user.Lookup(name); err == nil {
		uid, _ := strconv.Atoi(account.Uid) // user.User promises a decimal number
		return uid
	}
	return os.Geteuid()
}

// noGate reports why the gate did not answer.
func (e *examination) noGate(err error) {
	socket := e.settings.GateSocket
	var refusal control.Refusal
	var runs string

	switch {
	case errors.Is(err, control.UnknownVersion), errors.Is(err, control.Malformed):
		e.broken(fmt.Sprintf("the gate at %s does not understand terok-gate-hook, which is another version", socket), e.bothPrograms()+", and then: "+e.restartGate())
		return
	case errors.As(err, &refusal):
		e.broken(fmt.Sprintf("the gate at %s: %v", socket, err), e.gateSays())
		return
	case errors.Is(err, fs.ErrPermission):
		e.broken(fmt.Sprintf("you may not ask the gate at %s, nor may the hooks", socket), owners(socket))
		return
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		runs = fmt.Sprintf("no gate listens: %s does not exist", socket)
	case errors.Is(err, unix.ECONNREFUSED) && isSocket(socket):
		runs = fmt.Sprintf("no gate listens: %s was left by a gate that was killed", socket)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EPROTOTYPE), errors.Is(err, unix.ENOTSOCK):
		e.broken(fmt.Sprintf("%s is not a gate's socket", socket), printable.Shell("mv", socket, socket+".away")+" && "+e.startGate())
		return
	default: // it may hang
		e.broken(fmt.Sprintf("the gate at %s: %v", socket, err), e.restartGate())
		return
	}

	runs += "; without a gate, no container that asks for a project starts"
	if _, err := os.Stat(e.gateBinary()); err != nil {
		e.broken(fmt.Sprintf("%s; the program %s is missing", runs, e.gateBinary()), e.bothPrograms()+", and then: "+e.startGate())
		return
	}
	e.broken(runs, e.startGate())
}

// isSocket reports whether the path leads to a socket. If it leads to another file, the kernel refuses
// a connection in the same way as for a socket where nobody listens.
func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket != 0
}

// gateBinary returns the path of the gate's program, which belongs beside the hooks' program.
func (e *examination) gateBinary() string {
	binary := e.Binary
	if prestart := e.registered("prestart"); prestart != nil {
		binary = prestart.Hook.Path
	}
	return filepath.Join(filepath.Dir(binary), "terok-gate")
}

// gateVersion returns the version of the gate's program, or "" if it is unknown.
func (e *examination) gateVersion() string {
	if changeable(e.gateBinary()) { // another user's program may say anything
		return ""
	}
	out, err := e.command(e.gateBinary(), "--version")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimPrefix(out, "terok-gate version "))
}

// bothPrograms returns the remedy if only one of the two programs was upgraded.
func (e *examination) bothPrograms() string {
	return "install terok-gate and terok-gate-hook of one release, both in " + printable.Shell(filepath.Dir(e.gateBinary()))
}

// gateStarts checks the gate if no hook is registered: install writes the hooks' definitions only after it
// has started the gate.
func (e *examination) gateStarts() {
	unit := e.gateUnit()
	if unit == "" || strings.Contains(unit, "ActiveState=active") {
		return
	}
	elsewhere := strings.Contains(unit, " --repository-gate ")
	if elsewhere || e.reposAreTheGates(e.reposDirectory(), e.gateUID()) {
		e.broken(engines.GateUnitName+" does not run, and install waits for it", e.gateSays())
	}
}

// gateUnit returns systemd's state of the gate's service, or "" if systemd knows no such service.
func (e *examination) gateUnit() string {
	if !e.Place.Systemd {
		return ""
	}
	says, err := e.Place.GateState(e.ctx)
	if err != nil || !strings.Contains(says, "ExecStart=") {
		return ""
	}
	return says
}

// startGate returns the command that starts the gate, which does not answer.
func (e *examination) startGate() string {
	unit := e.gateUnit()
	switch {
	case unit == "":
		return e.serve() + ", in a terminal of its own"
	case strings.Contains(unit, "ActiveState=active"):
		return e.gateAnew() // it listens somewhere else, or its socket was removed
	}
	return e.systemctl(engines.GateUnitName, "enable", "--now") + "; if it fails: " + e.systemctl(engines.GateUnitName, "status")
}

// restartGate returns the command that replaces a running gate. Systemd meanwhile keeps the listeners in
// containers' networks.
func (e *examination) restartGate() string {
	if unit := e.gateUnit(); unit == "" {
		return "end it and start it again: " + e.serve() + ", in a terminal of its own; and then: " + e.ourselves("attach")
	}
	return e.systemctl(engines.GateUnitName, "restart")
}

// gateAnew returns the command that runs the gate with the settings of the hooks.
func (e *examination) gateAnew() string {
	was, there, err := e.Place.Registration()
	if err == nil && there && e.gateUnit() != "" && was.Settings.GateSocket == e.settings.GateSocket {
		return e.install()
	}
	return e.restartGate()
}

// serve returns the command that runs a gate for the hooks.
func (e *examination) serve() string {
	var args []string
	file, err := e.hooksTokenFile()
	if usual, usualErr := store.TokenFilePath(); err == nil && (usualErr != nil || usual != file) {
		args = append(args, "--token-file", file)
	}
	installed, _, _ := e.Place.Registration()
	args = append(append(args, "serve"), installed.Fleet.Args()...)
	if e.settings.GateSocket != e.Place.Control || installed.Fleet.Listen != "" {
		args = append(args, "--control", e.settings.GateSocket)
	}
	return e.gateCommand(args...)
}

// gateCommand returns a command of the gate's program.
func (e *examination) gateCommand(args ...string) string {
	return printable.Shell(append([]string{called("terok-gate", e.gateBinary())}, args...)...)
}

// gateSays returns a remedy that shows the gate's messages.
func (e *examination) gateSays() string {
	if e.gateUnit() == "" {
		return "see what the gate says on its standard error"
	}
	args := []string{"journalctl"}
	if e.Place.User {
		args = append(args, "--user")
	}
	return "see what the gate says: " + printable.Shell(append(args, "--unit", engines.GateUnitName)...)
}

// hooksTokenFile returns the token file that the hooks write.
func (e *examination) hooksTokenFile() (string, error) {
	if file := e.settings.Tokens.Path; file != "" {
		return file, nil
	}
	return store.TokenFilePath()
}

// samePlace reports whether two paths lead to the same file, which need not exist.
func samePlace(a, b string) bool {
	return filepath.Join(realPath(filepath.Dir(a)), filepath.Base(a)) == filepath.Join(realPath(filepath.Dir(b)), filepath.Base(b))
}
