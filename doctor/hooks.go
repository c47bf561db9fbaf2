// Checks that podman reads all of the hooks' definitions, and finds the settings in force.

package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"terok-gate-hook/engines"
	"terok-gate-hook/internal/printable"
)

// registered returns the definition for the stage, or nil if there is none.
func (e *examination) registered(stage string) *engines.Registered {
	for i, d := range e.definitions {
		if slices.Contains(d.Stages, stage) || stage == "prestart" && slices.Contains(d.Stages, "createRuntime") {
			return &e.definitions[i]
		}
	}
	return nil
}

// hooks asks podman which definitions it reads. Without podman, the settings in force are those of the
// devices.
func (e *examination) hooks() {
	if e.noPodman {
		e.hooksOfDevices()
		return
	}

	dirs, err := engines.HookDirs(e.ctx)
	if err != nil {
		e.broken(err.Error(), "fix podman first; to see more: podman --log-level debug info")
		e.stop()
		return
	}

	e.definitions = engines.DefinitionsIn(dirs)
	reads := "podman reads " + strings.Join(dirs, " and ")
	if len(e.definitions) == 0 {
		e.notInForce(reads)
		e.stop()
		return
	}

	first := cmp.Or(e.registered("prestart"), &e.definitions[0])
	e.settings = first.Settings
	if theirs := e.notForUs(first); theirs != "" {
		// All further checks would fail for the same reason.
		e.broken("podman reads hooks that are not yours: "+theirs, e.install())
		e.stop()
		return
	}

	e.fillIn()

	complete := true
	for _, stage := range []string{"prestart", "poststop"} {
		if e.registered(stage) == nil {
			complete = false
			e.broken(fmt.Sprintf("no definition for %s: %s", stage, reads), e.install())
		}
	}
	if e.registered("precreate") == nil {
		complete = false
		e.warn("no definition for precreate: git works only where gate.env was sourced", e.install())
	}

	seen := map[string]string{}
	for _, d := range e.definitions {
		for _, stage := range d.Stages {
			if other := seen[stage]; other != "" {
				complete = false
				e.broken(fmt.Sprintf("%s runs twice: %s and %s", stage, other, d.Path),
					fmt.Sprintf("keep the definition that you want, and remove the other: %s, or %s", printable.Shell("rm", other), printable.Shell("rm", d.Path)))
			}
			seen[stage] = d.Path
		}
	}

	if complete {
		e.ok("registered: " + reads)
	}

	if e.registered("prestart") != nil && e.imagesAnnotate && len(e.settings.AllowProjects) == 0 {
		e.broken("with this podman, the author of an image can choose the project",
			e.allowing([]string{"install"}))
	}
}

// hooksOfDevices takes the settings from the device for annotated containers, which has all settings.
func (e *examination) hooksOfDevices() {
	devices, _, _ := e.Place.ReadDevices() // the check of the devices reports errors
	annotated, there := devices[engines.AnnotatedDevice]
	if !there {
		e.stop()
		return
	}
	e.settings = annotated
	e.fillIn()
}

// fillIn takes settings that the doctor was not given from the settings in force.
func (e *examination) fillIn() {
	e.LogFile = cmp.Or(e.LogFile, e.settings.LogFile)
	e.GateURL = cmp.Or(e.GateURL, e.settings.URL())
	e.TokenFile = cmp.Or(e.TokenFile, e.settings.Tokens.Path)
}

// notForUs returns why a definition that another user has registered does not work for us. It returns ""
// if the definition is ours, or works.
func (e *examination) notForUs(d *engines.Registered) string {
	if !e.Place.User || filepath.Dir(d.Path) == e.Place.Hooks {
		return ""
	}
	if file := d.Settings.Tokens.Path; file != "" && !canReplace(file) {
		return fmt.Sprintf("%s keeps its tokens in %s, where you cannot write", d.Path, file)
	}
	if socket := d.Settings.GateSocket; socket != "" && !isOurs(filepath.Dir(socket)) {
		return fmt.Sprintf("%s asks the gate at %s, which is another user's", d.Path, socket)
	}
	return ""
}

// notInForce reports why podman reads no definition of ours.
func (e *examination) notInForce(reads string) {
	idle := engines.DefinitionsIn([]string{e.Place.Hooks})
	if len(idle) == 0 {
		e.broken("no hook is registered: "+reads, e.install())
		e.gateStarts()
		return
	}
	text := fmt.Sprintf("%s is not in force: %s", idle[0].Path, reads)
	others := slices.DeleteFunc(settersOfHooksDir(), func(file string) bool { return file == e.Place.DropIn })
	if _, err := os.Lstat(e.Place.DropIn); err != nil || len(others) == 0 {
		e.broken(text, e.install())
		return
	}
	e.broken(fmt.Sprintf("%s, since hooks_dir is also set in %s", text, strings.Join(others, " and ")),
		fmt.Sprintf("there, add %q to hooks_dir", e.Place.Hooks))
}

// settersOfHooksDir returns the configuration files that set hooks_dir in any version of podman. Up to
// podman 5, files are read directory by directory; podman 6 reads one containers.conf, and drop-ins sorted
// by name. A list replaces the lists before it. But from podman 4.8 on, a list that says {append=true}, as
// install's does, is replaced only by a later list that says {append=false}.
func settersOfHooksDir() (files []string) {
	directories := []string{"/usr/share/containers", "/etc/containers"}
	if config, err := os.UserConfigDir(); err == nil {
		directories = append(directories, filepath.Join(config, "containers"))
	}
	candidates := []string{os.Getenv("CONTAINERS_CONF"), os.Getenv("CONTAINERS_CONF_OVERRIDE")}
	for _, directory := range directories {
		for _, pattern := range []string{"containers*.conf", "containers*.conf.d/*.conf", "containers*.conf.d/*/*.conf"} {
			paths, _ := filepath.Glob(filepath.Join(directory, pattern))
			candidates = append(candidates, paths...)
		}
	}
	sets := regexp.MustCompile(`(?m)^\s*(engine\.)?hooks_dir\s*=`)
	for _, path := range candidates {
		if content, err := engines.ReadSmall(path); err == nil && sets.Match(content) {
			files = append(files, path)
		}
	}
	return files
}
