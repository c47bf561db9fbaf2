// Makes the units of the gate, of forward and of reap --watch, and has systemd run them.

package engines

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	units "terok-gate-hook/systemd"
)

// The units that install can write. The gate revokes tokens as reap --watch does, so only one of the two
// runs. Forward runs beside the gate.
const (
	WatchUnitName   = "terok-gate-reap.service"
	GateUnitName    = "terok-gate.service"
	ForwardUnitName = "terok-gate-forward.service"
)

var unitNames = []string{WatchUnitName, ForwardUnitName, GateUnitName}

// hookLogs is the directory of the default log file of root's hooks.
const hookLogs = "/var/log/terok-gate"

// units returns the names of the units that systemd is to run.
func (r Registration) units() []string {
	switch {
	case r.Gate && len(r.Settings.Services) > 0:
		return []string{GateUnitName, ForwardUnitName}
	case r.Gate:
		return []string{GateUnitName}
	case r.Watch:
		return []string{WatchUnitName}
	}
	return nil
}

// unit returns the unit of this name from the directory systemd/ of the sources, with the paths of our
// program and files.
func (r Registration) unit(name string, place Place) ([]byte, error) {
	template := "system/" + name
	if place.User {
		template = "user/" + name
	}
	content, err := units.Files.ReadFile(template)
	if err != nil {
		return nil, err
	}
	unit := string(content)

	settings, writes := r.Settings, []string{r.Settings.Tokens.Path}
	command, flags := "reap", []string{"--watch"}
	switch name {
	case GateUnitName:
		unit = r.Fleet.connect(unit)
		command, flags = "serve", append(r.Fleet.Args(), "--control", r.Settings.GateSocket)
		if r.Fleet.RepositoryGate == "" {
			flags = append([]string{"--repos", r.Repos}, flags...)
			writes = append(writes, r.Repos)
		}
	case ForwardUnitName:
		command, flags = "forward", []string{"--control", control.ForwardSocket(r.Settings.GateSocket)}
		if err := checkUnitPath(r.Repos); err != nil {
			return nil, err
		}
		unit = r.confine(unit)
	}
	if r.Gate {
		attach := append([]string{r.GateBinary()}, r.Settings.Args("attach")...)
		unit = replaceLine(unit, "ExecStartPost=", "-+"+commandLine(attach))
		if !place.User { // the hooks' log file is root's, and the gate cannot write to it
			settings.LogFile = GateLog
		}
	}
	runs := slices.Concat([]string{r.GateBinary()}, settings.Args(command), flags)
	unit = replaceLine(unit, "ExecStart=", commandLine(runs))

	if log := settings.LogFile; log != "" && filepath.Dir(log) != hookLogs && log != GateLog { // systemd makes hookLogs and GateLog's directory
		writes = append(writes, log)
	}
	var writable []string
	for _, file := range writes {
		directory := existingDirectory(file)
		if err := checkUnitPath(directory); err != nil {
			return nil, err
		}
		if quoted := unitQuote(directory); !slices.Contains(writable, quoted) {
			writable = append(writable, quoted)
		}
		if directory == "/tmp" || directory == "/var/tmp" {
			unit = replaceLine(unit, "PrivateTmp=", "no")
		}
		if !strings.HasPrefix(file, "/var/") {
			unit = replaceLine(unit, "ProtectHome=", "no")
		}
	}
	unit = replaceLine(unit, "ReadWritePaths=", strings.Join(writable, " "))
	return []byte(mark + unit), nil
}

// confine lets the unit of terok-gate forward reach its services. A system unit then reaches no other
// address, and no repositories.
func (r Registration) confine(unit string) string {
	var addresses []string
	for _, given := range r.Settings.Services {
		service, err := hook.ParseService(given)
		if err != nil { // the settings were checked
			continue
		}
		if at, err := netip.ParseAddrPort(service.Address); err == nil {
			addresses = append(addresses, at.Addr().String())
			continue
		}
		unit = uncover(unit, service.Address)
	}

	slices.Sort(addresses)
	unit = replaceLine(unit, "IPAddressAllow=", strings.Join(slices.Compact(addresses), " "))
	return replaceLine(unit, "InaccessiblePaths=", unitQuote("-"+r.Repos))
}

// commandLine returns a command as ExecStart= takes it. There, % begins a specifier and, except in the
// first word, $ begins a variable (systemd.service(5)).
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = unitQuote(word)
		if i > 0 {
			quoted[i] = strings.ReplaceAll(quoted[i], "$", "$$")
		}
	}
	return strings.Join(quoted, " ")
}

// unitQuote quotes a word for a unit (systemd.syntax(7)). The escapes of quotes, backslashes and %
// mean the same in commands and in lists of paths. The escapes of other bytes do not: in a list of paths, a
// backslash only makes the next character an ordinary one. [checkUnitPath] refuses paths with such bytes.
func unitQuote(word string) string {
	var quoted strings.Builder
	for i := 0; i < len(word); {
		r, size := utf8.DecodeRuneInString(word[i:])
		switch {
		case r < ' ', r == 0x7f, r == utf8.RuneError && size == 1:
			fmt.Fprintf(&quoted, `\x%02x`, word[i])
		case r == '"', r == '\\':
			quoted.WriteString(`\` + string(r))
		case r == '%':
			quoted.WriteString("%%")
		default:
			quoted.WriteRune(r)
		}
		i += size
	}
	return `"` + quoted.String() + `"`
}

// checkUnitPath returns an error for a path that no list of paths in a unit can contain.
func checkUnitPath(path string) error {
	if !utf8.ValidString(path) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%q: the path has a control character or is not UTF-8: a unit of systemd cannot name it", path)
	}
	return nil
}

// valueInUnit reads the value of a flag of terok-gate serve back from a unit. It is empty if the
// unit does not have the flag.
func valueInUnit(unit, flag string) string {
	_, after, _ := strings.Cut(unit, ` "--`+flag+`" `)
	quoted, _ := strconv.QuotedPrefix(after)
	value, _ := strconv.Unquote(quoted)
	return strings.NewReplacer("%%", "%", "$$", "$").Replace(value)
}

// existingDirectory returns the nearest existing directory above the file. ReadWritePaths= needs a
// directory that exists when the service starts, and the file's directory may be made later. Below
// /var/lib, /var/tmp, /tmp and /run, directories may vanish. So for a file below one of these four, it
// returns that one.
func existingDirectory(file string) string {
	for _, stays := range []string{"/var/lib", "/var/tmp", "/tmp", "/run"} {
		if strings.HasPrefix(file, stays+"/") {
			return stays
		}
	}
	for directory := filepath.Dir(file); ; directory = filepath.Dir(directory) {
		if info, err := os.Stat(directory); err == nil && info.IsDir() || directory == "/" {
			return directory
		}
	}
}

func replaceLine(text, key, value string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, key) {
			lines[i] = key + value
		}
	}
	return strings.Join(lines, "\n")
}

// Lingers reports whether the user's service manager keeps running after the last log-out
// (loginctl(1), enable-linger).
func Lingers() bool {
	self, err := user.Current()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join("/var/lib/systemd/linger", self.Username))
	return err == nil
}

// start starts a unit, now and at every boot or log-in.
func (p Place) start(ctx context.Context, unit string) error {
	for _, args := range [][]string{
		{"daemon-reload"}, {"enable", unit}, {"restart", unit}, // the unit may be running with other flags
	} {
		if _, err := p.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// WatchState returns the properties ActiveState and ExecStart of the unit of reap --watch,
// each on a line.
func (p Place) WatchState(ctx context.Context) (properties string, err error) {
	return p.show(ctx, WatchUnitName)
}

// GateState returns the same properties of the gate's unit.
func (p Place) GateState(ctx context.Context) (properties string, err error) {
	return p.show(ctx, GateUnitName)
}

// ForwardState returns the same properties of the unit of terok-gate forward.
func (p Place) ForwardState(ctx context.Context) (properties string, err error) {
	return p.show(ctx, ForwardUnitName)
}

func (p Place) show(ctx context.Context, unit string) (properties string, err error) {
	return p.systemctl(ctx, "show", "--property", "ActiveState,ExecStart", unit)
}

// stop stops a unit, now and for good.
func (p Place) stop(ctx context.Context, unit string) error {
	_, err := p.systemctl(ctx, "disable", "--now", unit)
	return err
}

// forget tells systemd which units are gone.
func (p Place) forget(ctx context.Context) error {
	_, err := p.systemctl(ctx, "daemon-reload")
	return err
}

func (p Place) systemctl(ctx context.Context, args ...string) (out string, err error) {
	if p.User {
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	if p.User {
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+p.Runtime)
	}
	said, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), commandError(err))
	}
	return string(said), err
}
