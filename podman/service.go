// The service that runs reap --watch, and its unit.

package podman

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const UnitName = "terok-gate-reap.service"

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

// enableWatch starts the unit, now and at every boot or log-in.
func (p Place) enableWatch(ctx context.Context) error {
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

// disableWatch stops the unit.
func (p Place) disableWatch(ctx context.Context) error {
	_, err := p.systemctl(ctx, "disable", "--now", UnitName)
	return err
}

// forgetWatch has systemd see that the unit is gone.
func (p Place) forgetWatch(ctx context.Context) error {
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
