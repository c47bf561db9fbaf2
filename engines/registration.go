// Writes a registration of the hooks: definitions (made from those in hooks.d), a drop-in and units.
// Reads the registration back from these files, since it is stored nowhere else.

package engines

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"terok-gate-hook/hook"
	definitions "terok-gate-hook/hooks.d"
)

const binary = "terok-gate-hook"

// Registration holds the settings that the hooks are registered with.
type Registration struct {
	Binary   string        // absolute path of terok-gate-hook
	Settings hook.Settings // what its stages are told; all paths are absolute, and Tokens.Path is not empty
	Gate     bool          // systemd is to run terok-gate, which is beside Binary, at Settings.GateSocket
	Repos    string        // the gate's directory of repositories
	Fleet    Fleet         // what the gate is told of gates on other machines
	Token    bool          // containers that ask for a device get their token; it is not withheld
	Watch    bool          // systemd is to run reap --watch, if Gate is false
}

// Registration reads back the settings of the last install. If nothing is installed, only
// Watch is set. An error says what could not be understood. With the error, it returns the settings
// that were understood, unless other users may have written them.
func (p Place) Registration() (r Registration, there bool, err error) {
	definitions := ours(p.definitionPaths())
	if len(definitions) == 0 {
		return Registration{Watch: true}, false, nil
	}

	d := definitions[0]
	var twice error
	for _, stage := range []string{"poststop", "precreate", "prestart"} { // prestart last: its definition has the most settings
		first := ""
		for _, other := range definitions {
			switch {
			case !other.runsAt(stage):
			case first == "":
				first, d = other.Path, other
			case !slices.Equal(other.Settings.AllowProjects, d.Settings.AllowProjects),
				!slices.Equal(other.Settings.AllowReads, d.Settings.AllowReads),
				!slices.Equal(other.Settings.AllowServices, d.Settings.AllowServices):
				twice = fmt.Errorf("admits other projects or services than %s, which runs at %s too", other.Path, stage)
			}
		}
	}

	units, err := installed([]string{p.unit(WatchUnitName), p.unit(GateUnitName)})
	gate := slices.Contains(units, p.unit(GateUnitName))
	r = Registration{Binary: d.Hook.Path, Settings: d.Settings, Gate: gate, Watch: gate || len(units) > 0}
	if gate {
		unit, _ := ReadSmall(p.unit(GateUnitName)) // installed has read it
		r.Repos = valueInUnit(string(unit), "repos")
		for _, flag := range r.Fleet.Flags() {
			*flag.Value = valueInUnit(string(unit), flag.Name)
		}
	}

	if devices, _, err := p.ReadDevices(); err == nil && isOwn(p.Devices) {
		annotated, has := devices[AnnotatedDevice]
		r.Token = has && annotated.GateSocket != "" && !annotated.WithholdToken
	}

	switch {
	case err != nil:
	case !isOwn(d.Path):
		r.Settings, r.Fleet, err = hook.Settings{}, Fleet{}, errors.New("other users may have written it")
	case d.Err != nil:
		err = d.Err
	case twice != nil:
		err = twice
	case !d.runsAt("prestart") && !d.runsAt("precreate"):
		err = errors.New("it is the only definition left, and does not say which projects are admitted")
	}
	if err != nil {
		err = fmt.Errorf("current settings: %s: %w", d.Path, err)
	}
	return r, true, err
}

// InstallArgs returns the arguments of an install that produces this registration.
func (r Registration) InstallArgs() []string {
	settings := r.Settings
	if r.Gate {
		settings.GateSocket = "" // install sets it by default
	}
	args := settings.Args("prestart")
	args[slices.Index(args, "prestart")] = "install"
	args = append(args, r.Fleet.Args()...)
	if !r.Gate && r.GateByDefault() {
		args = append(args, "--no-gate")
	}
	if !r.Gate && !r.Watch {
		args = append(args, "--no-watch")
	}
	if r.Token {
		args = append(args, "--token")
	}
	return args
}

// files returns the files that register the hooks, in the order in which they are to be written:
// the gate must run before there are hooks that ask for it. lists is nil if there is no podman.
// Definitions are written even then, since they hold the settings.
func (r Registration) files(place Place, lists *hookLists) ([]File, error) {
	files, err := r.Definitions(place.Hooks)
	if err != nil {
		return nil, err
	}
	if lists != nil {
		if _, err := os.Lstat(place.DropIn); err == nil || !slices.Contains(lists.inForce, place.Hooks) {
			files = append(files, File{Path: place.DropIn, Content: lists.with(place.Hooks)})
		}
	}

	var units []File
	for _, name := range r.units() {
		content, err := r.unit(name, place)
		if err != nil {
			return nil, err
		}
		units = append(units, File{Path: place.unit(name), Content: content})
	}

	if r.Gate {
		return append(units, files...), nil
	}
	return append(files, units...), nil
}

// hookLists describes podman's lists of directories with hook definitions.
type hookLists struct {
	inForce []string // the directories that podman reads now
	append  bool     // a list can say {append=true}
}

// with returns a drop-in for containers.conf that adds the directory to those in force.
//
// A list that says {append=true} is added to the lists before it, and later lists are added to it,
// unless they say {append=false} (seen with podman 5.4 and 6.1, where drop-ins of vendors can come
// later). In a podman that does not know {append=true}, each list replaces the lists before it. So the
// drop-in for such a podman repeats the directories in force.
func (l hookLists) with(dir string) []byte {
	var items []string
	if !l.append {
		for _, other := range l.inForce {
			if other != dir {
				items = append(items, strconv.Quote(other))
			}
		}
	}
	items = append(items, strconv.Quote(dir))
	if l.append {
		items = append(items, "{append=true}")
	}
	return []byte(mark + "[engine]\nhooks_dir = [" + strings.Join(items, ", ") + "]\n")
}

// Definitions returns the hook definitions of all stages, for a directory that podman reads.
func (r Registration) Definitions(directory string) (files []File, err error) {
	names, err := fs.Glob(definitions.Files, "*.json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		content, err := r.definition(name)
		if err != nil {
			return nil, fmt.Errorf("definition %s: %w", name, err)
		}
		files = append(files, File{Path: filepath.Join(directory, name), Content: content})
	}
	return files, nil
}

func (r Registration) definition(name string) ([]byte, error) {
	template, err := definitions.Files.ReadFile(name)
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
	// The first argument is the program's name and a hint, which podman shows when a precreate hook fails.
	d.Hook.Args = append(d.Hook.Args[:1:1], r.Settings.Args(stage)...)
	content, err := json.MarshalIndent(d, "", "  ")
	return append(content, '\n'), err
}
