// Package doctor finds what is wrong between podman and the gate, and what mends it.
package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"terok-gate-hook/podman"
	"terok-gate-hook/store"
)

// State is how a check turned out.
type State string

const (
	OK      State = "ok"
	Warning State = "warning" // works, but not as it should
	Broken  State = "broken"
	Mended  State = "mended" // was broken or a warning until now
)

// Finding is what a check found. A check can have several.
type Finding struct {
	Check  string `json:"check"`
	State  State  `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // what mends it
}

// Doctor examines an installation as one user, root or another, has it.
type Doctor struct {
	Place     podman.Place
	Binary    string // absolute path of terok-gate-hook
	TokenFile string // empty: what the definitions name, or else the default
	LogFile   string // empty: what the definitions name
	GateURL   string // empty: what the definitions name
	GateUser  string // the user that the gate server runs as; empty: not checked
	Project   string // the probe's; empty: one that the definitions admit
	Network   string // the probe's, as podman run --network takes it; empty: podman's default
	Image     string // the probe's; empty: an empty one that borrows the host's programs
	Repair    bool   // mend what is safe to mend
}

// Examine makes every check that makes sense here, and reports what each finds. It
// starts containers that do nothing, and changes nothing but what it is told to repair.
func (d Doctor) Examine(ctx context.Context, report func(Finding)) {
	e := examination{Doctor: d, ctx: ctx, report: report}
	e.kernel()
	hasPodman := e.podman()
	if hasPodman {
		e.hooks()
		e.containers()
	}
	if e.LogFile == "" {
		e.LogFile = e.flag("--log-file")
	}
	if e.GateURL == "" {
		e.GateURL = e.flag("--gate-url")
	}
	if err := e.chooseTokenFile(); err != nil {
		e.broken("token-file", err.Error(), "--token-file F")
	} else {
		e.tokenFile()
		e.lock()
		e.orphans()
		e.leftovers()
		if d.GateUser != "" {
			e.gateUser()
		}
	}
	e.service()
	e.log()
	if hasPodman && e.registered("prestart") != nil {
		e.probe()
	}
}

// examination is one run of a doctor, with what it has learnt so far.
type examination struct {
	Doctor
	ctx            context.Context
	report         func(Finding)
	imagesAnnotate bool
	noProbe        string // why a probe would do harm
	definitions    []podman.Registered
	tokens         store.File
}

func (e *examination) ok(check, text string) {
	e.report(Finding{Check: check, State: OK, Text: text})
}

func (e *examination) warn(check, text, remedy string) {
	e.report(Finding{Check: check, State: Warning, Text: text, Remedy: remedy})
}

func (e *examination) broken(check, text, remedy string) {
	e.report(Finding{Check: check, State: Broken, Text: text, Remedy: remedy})
}

// mend reports a finding that repair can mend, mended or not.
func (e *examination) mend(check string, state State, text, remedy string, repair func() (done string, err error)) {
	if !e.Repair {
		e.report(Finding{Check: check, State: state, Text: text, Remedy: remedy + " (doctor --repair does it)"})
		return
	}
	done, err := repair()
	if err != nil {
		e.broken(check, fmt.Sprintf("%s: not mended: %v", text, err), remedy)
		return
	}
	e.report(Finding{Check: check, State: Mended, Text: text + ": " + done})
}

func (e *examination) kernel() {
	var name unix.Utsname
	_ = unix.Uname(&name) // fails for a bad address only (uname(2))
	release := "Linux " + unix.ByteSliceToString(name.Release[:])
	// Asked without a mount: a kernel that knows the call has other objections.
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		e.broken("kernel", release+" cannot mount a folder into a container: it has no mount_setattr(2)", "use Linux 5.12 or later")
		return
	}
	e.ok("kernel", release)
}

// podman tells whether there is a podman that works.
func (e *examination) podman() bool {
	const check = "podman"
	if _, err := exec.LookPath("podman"); err != nil {
		e.broken(check, "podman is not installed, or not in PATH", "install podman, and crun or runc")
		return false
	}
	if e.Place.User && !e.userNamespaces() {
		return false
	}
	major, minor, err := podman.Version(e.ctx)
	if err != nil {
		e.broken(check, err.Error(), "mend podman first: podman version")
		return false
	}
	e.imagesAnnotate = podman.ImagesAnnotate(major, minor)
	e.ok(check, fmt.Sprintf("podman %d.%d", major, minor))
	return true
}

// userNamespaces asks podman for what a rootless engine cannot do without. Without
// subordinate ids podman makes do with one user, and most images do not.
func (e *examination) userNamespaces() bool {
	const check, install = "user-namespaces", "install uidmap (Debian) or shadow-utils (Fedora)"
	uids, err := e.command("podman", "unshare", "cat", "/proc/self/uid_map")
	if err != nil {
		remedy := "if it is not a matter of your files: " + install + ", and see that user namespaces are allowed (sysctl -a | grep -e userns -e user_namespaces)"
		e.broken(check, "podman gets no user namespace: "+err.Error(), remedy)
		return false
	}
	if strings.Count(uids, "\n") < 2 {
		e.broken(check, "your user has no subordinate ids (subuid(5), subgid(5))",
			install+", then, as root, usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, and podman system migrate")
		return true
	}
	e.ok(check, "user namespaces and subordinate ids")
	return true
}

// service tells whether orphans die at once.
func (e *examination) service() {
	const check = "service"
	if !e.Place.Systemd {
		e.ok(check, "no systemd here to run reap --watch: an orphan's token goes with the next hook of any container")
		return
	}
	runs, err := e.Place.Watch(e.ctx)
	if err != nil || !strings.Contains(runs, "ActiveState=active") {
		status := "systemctl status "
		if e.Place.User {
			status = "systemctl --user status "
		}
		e.warn(check, podman.UnitName+" does not run: an orphan's token lives until the next hook of any container",
			"terok-gate-hook install, or see "+status+podman.UnitName)
		return
	}
	if !e.isWatched(runs) {
		e.warn(check, podman.UnitName+" watches another token file than "+e.TokenFile, "terok-gate-hook install")
		return
	}
	if e.Place.User && !podman.Lingers() {
		e.warn(check, podman.UnitName+" and your containers end when you log out", "loginctl enable-linger")
		return
	}
	e.ok(check, podman.UnitName+" runs")
}

// isWatched tells whether a service with this ExecStart= watches our token file.
func (e *examination) isWatched(execStart string) bool {
	if strings.Contains(execStart, " --token-file ") {
		return strings.Contains(execStart, " --token-file "+e.TokenFile+" ")
	}
	usual, err := store.TokenFilePath()
	return err == nil && usual == e.TokenFile
}

// command runs a program and returns what it writes to standard output. The probe's
// image may be hostile, and say more than we care to hear.
func (e *examination) command(name string, args ...string) (string, error) {
	var stdout, stderr limitedBuffer
	cmd := exec.CommandContext(e.ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && stderr.held.Len() > 0 {
		err = fmt.Errorf("%w: %.300s", err, podman.LastLine(stderr.held.Bytes()))
	}
	return stdout.held.String(), err
}

// limitedBuffer takes so much and no more.
type limitedBuffer struct{ held bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	const limit = 16 << 20
	if b.held.Len()+len(p) > limit {
		return 0, fmt.Errorf("more than %d bytes of output", limit)
	}
	return b.held.Write(p)
}
