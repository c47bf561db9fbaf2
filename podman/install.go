// What install writes and uninstall removes.

package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"terok-gate-hook/hook"
)

// Place is where the files of an installation are.
type Place struct {
	Hooks   string // folder for hook definitions
	DropIn  string // drop-in for containers.conf
	Unit    string // systemd unit
	User    bool   // of one user, not of the system
	Runtime string // XDG_RUNTIME_DIR of that user
	Systemd bool   // there is a systemd that could run the unit
}

// SystemPlace is where root installs, for root's podman. Not below /usr, which can
// be read-only (podman machine, Fedora CoreOS) and belongs to packages. And not in
// oci/hooks.d: where CRI-O (1.34.0) or NRI's hook-injector read that, they do not
// start with a stage that podman alone knows in it.
func SystemPlace() Place {
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return Place{
		Hooks:   "/etc/containers/oci/podman-hooks.d",
		DropIn:  "/etc/containers/containers.conf.d/99-terok-gate.conf",
		Unit:    "/etc/systemd/system/" + UnitName,
		Systemd: err == nil,
	}
}

// UserPlace is where a user installs, for the user's own rootless podman.
//
// It is no place at all with an XDG_CONFIG_HOME of the user's choice: podman passes
// that on to no process that cleans up after a container, which then finds no
// poststop hook (seen with podman 4.3.1).
func UserPlace() (Place, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return Place{}, err
	}
	config := filepath.Join(home, ".config")
	if other := os.Getenv("XDG_CONFIG_HOME"); other != "" && filepath.Clean(other) != config {
		return Place{}, fmt.Errorf("XDG_CONFIG_HOME is %s: podman's clean-up does not see it and would run no poststop hook: "+
			"unset it, for podman too, and use %s", other, config)
	}
	// After su and sudo it is not set, and podman looks there by itself.
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if runtime == "" {
		runtime = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	_, err = os.Stat(filepath.Join(runtime, "systemd/private")) // the user's service manager
	return Place{
		Hooks:   filepath.Join(config, "containers/oci/podman-hooks.d"),
		DropIn:  filepath.Join(config, "containers/containers.conf.d/99-terok-gate.conf"),
		Unit:    filepath.Join(config, "systemd/user", UnitName),
		User:    true,
		Runtime: runtime,
		Systemd: err == nil,
	}, nil
}

const (
	UnitName = "terok-gate-reap.service"
	binary   = "terok-gate-hook"
)

// Registration is what the hooks are registered with.
type Registration struct {
	Binary   string        // absolute path of terok-gate-hook
	Settings hook.Settings // what its stages are told: paths are absolute, that of the token file is there
	Watch    bool          // run reap --watch as a service
}

// Files returns the files that register the hooks. templates holds hooks.d and
// systemd as the repository does; inForce are the folders that podman reads
// definitions from now.
func (r Registration) Files(place Place, templates fs.FS, inForce []string) ([]File, error) {
	definitions, err := fs.Glob(templates, "hooks.d/*.json")
	if err != nil {
		return nil, err
	}
	var files []File
	for _, name := range definitions {
		content, err := r.definition(templates, name)
		if err != nil {
			return nil, fmt.Errorf("definition %s: %w", name, err)
		}
		files = append(files, File{filepath.Join(place.Hooks, filepath.Base(name)), content})
	}
	// hooks_dir replaces the list that was in force, so the drop-in repeats it.
	if _, err := os.Lstat(place.DropIn); err == nil || !slices.Contains(inForce, place.Hooks) {
		dirs := slices.DeleteFunc(slices.Clone(inForce), func(dir string) bool { return dir == place.Hooks })
		var quoted []string
		for _, dir := range append(dirs, place.Hooks) {
			quoted = append(quoted, strconv.Quote(dir))
		}
		content := mark + "[engine]\nhooks_dir = [" + strings.Join(quoted, ", ") + "]\n"
		files = append(files, File{place.DropIn, []byte(content)})
	}
	if r.Watch {
		content, err := r.unit(place, templates)
		if err != nil {
			return nil, err
		}
		files = append(files, File{place.Unit, content})
	}
	return files, nil
}

func (r Registration) definition(templates fs.FS, name string) ([]byte, error) {
	template, err := fs.ReadFile(templates, name)
	if err != nil {
		return nil, err
	}
	var d Definition
	if err := json.Unmarshal(template, &d); err != nil {
		return nil, err
	}
	stage := d.Stages[0]
	d.Hook.Path = r.Binary
	d.Hook.Timeout = max(d.Hook.Timeout, int(math.Ceil(r.Settings.Timeout().Seconds())))
	d.Hook.Args = append([]string{binary}, r.Settings.Args(stage)...)
	names := r.Settings.Annotations()
	for i, name := range names {
		names[i] = regexp.QuoteMeta(name)
	}
	d.When.Annotations = map[string]string{"^(" + strings.Join(names, "|") + ")$": ".*"}
	content, err := json.MarshalIndent(d, "", "  ")
	return append(content, '\n'), err
}

// unit is the repository's unit for our binary and token file.
func (r Registration) unit(place Place, templates fs.FS) ([]byte, error) {
	name := "systemd/system/" + UnitName
	if place.User {
		name = "systemd/user/" + UnitName
	}
	template, err := fs.ReadFile(templates, name)
	if err != nil {
		return nil, err
	}
	// In ExecStart=, % begins a specifier and, but for the first word, $ a variable
	// (systemd.service(5)).
	words := slices.Concat([]string{r.Binary}, r.Settings.Args("reap"), []string{"--watch"})
	for i, word := range words {
		words[i] = unitQuote(word)
		if i > 0 {
			words[i] = strings.ReplaceAll(words[i], "$", "$$")
		}
	}
	unit := replaceLine(string(template), "ExecStart=", strings.Join(words, " "))
	var writable []string
	for _, file := range []string{r.Settings.Tokens.Path, r.Settings.LogFile} {
		if file == "" {
			continue
		}
		folder := ExistingFolder(file)
		writable = append(writable, unitQuote(folder))
		if folder == "/tmp" || folder == "/var/tmp" {
			unit = replaceLine(unit, "PrivateTmp=", "no")
		}
		if !strings.HasPrefix(file, "/var/") {
			unit = replaceLine(unit, "ProtectHome=", "no")
		}
	}
	unit = replaceLine(unit, "ReadWritePaths=", strings.Join(writable, " "))
	return []byte(mark + unit), nil
}

func unitQuote(word string) string {
	return strings.ReplaceAll(strconv.Quote(word), "%", "%%")
}

// ExistingFolder is the nearest folder above the file that there is: what a service
// may write to must exist when it starts, even if the file's own folder comes later.
// Where folders come and go, at a reboot say, it is the one that stays.
func ExistingFolder(file string) string {
	for _, stays := range []string{"/var/lib", "/var/tmp", "/tmp", "/run"} {
		if strings.HasPrefix(file, stays+"/") {
			return stays
		}
	}
	for folder := filepath.Dir(file); ; folder = filepath.Dir(folder) {
		if info, err := os.Stat(folder); err == nil && info.IsDir() || folder == "/" {
			return folder
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

// Installed returns the paths of the files of an installation that are there and
// ours.
func Installed(place Place) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(place.Hooks, "99-terok-gate-*.json"))
	if err != nil {
		return nil, err
	}
	// What enables the unit: systemctl removes it, where there is a systemd.
	links, err := filepath.Glob(filepath.Join(filepath.Dir(place.Unit), "*.wants", UnitName))
	if err != nil {
		return nil, err
	}
	var installed []string
	for _, path := range slices.Concat(paths, []string{place.DropIn}, links, []string{place.Unit}) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		ours, err := isOurs(path)
		if err != nil {
			return nil, err
		}
		if ours {
			installed = append(installed, path)
		}
	}
	return installed, nil
}

// Flag returns what the hooks that are installed there give the flag, empty if none
// does. What others may have written does not count.
func (p Place) Flag(name string) string {
	for _, d := range DefinitionsIn([]string{p.Hooks}) {
		if value := d.Flag(name); value != "" && isOwn(d.Path) {
			return value
		}
	}
	return ""
}

// isOwn tells whether nobody but this user and root may have written the file.
func isOwn(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	return (owner == 0 || int(owner) == os.Geteuid()) && info.Mode()&0o002 == 0
}

// Lingers tells whether the user's service manager runs on after the last log-out
// (loginctl(1), enable-linger).
func Lingers() bool {
	self, err := user.Current()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join("/var/lib/systemd/linger", self.Username))
	return err == nil
}

// EnableWatch starts the unit, now and at every boot or log-in.
func (p Place) EnableWatch(ctx context.Context) error {
	for _, args := range [][]string{
		{"daemon-reload"}, {"enable", UnitName}, {"restart", UnitName}, // it may run with other flags
	} {
		if _, err := p.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Watch returns what systemd says of the unit, as properties, one a line: ActiveState
// and ExecStart.
func (p Place) Watch(ctx context.Context) (properties string, err error) {
	return p.systemctl(ctx, "show", "--property", "ActiveState,ExecStart", UnitName)
}

// DisableWatch stops the unit.
func (p Place) DisableWatch(ctx context.Context) error {
	_, err := p.systemctl(ctx, "disable", "--now", UnitName)
	return err
}

// ForgetWatch has systemd see that the unit is gone.
func (p Place) ForgetWatch(ctx context.Context) error {
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
