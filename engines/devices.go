// Writes the file of devices (CDI) that Docker, containerd, CRI-O and podman read. It has one
// device for each project, and one for containers whose annotations name project and task.
// hook/device.go chooses the environment variables that a device gives.
//
// Engines run the hooks in the file as root or, if rootless, as their user. No other user may be able
// to change the file. For a single bad name in it, engines drop the whole file. So a new file is checked
// with the CDI project's own package before it replaces the old one.

package engines

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/owner"
)

// DeviceKind is the kind of our devices. A device's full name is DeviceKind=PROJECT.
const DeviceKind = "terok.dev/project"

// AnnotatedDevice is the device of containers whose annotations name project and task.
const AnnotatedDevice = "annotated"

// devicesLimit is the size in bytes of the largest file of devices that is read. It is enough for
// some 20,000 projects.
const devicesLimit = 16 << 20

const devicesName = "terok.json"

func readDevicesFile(path string) ([]byte, error) { return readAtMost(path, devicesLimit) }

// UpdateDevices rewrites the file of devices, if install has written one, after a repository was
// made, renamed or removed. It returns the projects that cannot be devices because of their names.
func (p Place) UpdateDevices() (left []string, err error) {
	if _, err := os.Lstat(p.Devices); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r, there, err := p.Registration()
	if err != nil || !there {
		return nil, err
	}
	if is, err := isOurs(p.Devices); err != nil || !is {
		return nil, err
	}

	// While this command works, another one may make a repository, and write the file first. So write
	// the file again until the repositories are the same before and after.
	for {
		projects, err := r.projects()
		if err != nil {
			return nil, err
		}
		file, left, err := r.devices(p, projects)
		if err != nil {
			return left, err
		}
		if err := file.Write(); err != nil {
			return left, fmt.Errorf("devices of Docker and others: %w", err)
		}
		if now, err := r.projects(); err != nil || slices.Equal(now, projects) {
			return left, err
		}
	}
}

// projectsIn returns the projects that have a repository in the directory, in order. A
// missing directory has none.
func projectsIn(repos string) (projects []string, err error) {
	projects, err = control.Projects(repos)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return projects, err
}

// devices returns the file of devices for these projects, and the projects among them that cannot be
// devices.
func (r Registration) devices(place Place, projects []string) (_ File, left []string, err error) {
	if err := CheckDevicesOwner(place.Devices); err != nil {
		return File{}, nil, err
	}
	settings := r.deviceSettings()
	common, err := settings.DeviceEnvironment("")
	if err != nil {
		return File{}, nil, err
	}

	spec := specs.Spec{Kind: DeviceKind, ContainerEdits: specs.ContainerEdits{Env: common, Hooks: []*specs.Hook{r.deviceHook("poststop", settings)}}}
	annotated := settings
	annotated.Annotated = true
	spec.Devices = append(spec.Devices, specs.Device{
		Name: AnnotatedDevice, ContainerEdits: specs.ContainerEdits{Hooks: []*specs.Hook{r.deviceHook("createRuntime", annotated)}},
	})

	for _, project := range projects {
		if !canBeDevice(project) {
			left = append(left, project)
			continue
		}
		own := settings
		own.Project, own.TaskID = project, true
		env, err := own.DeviceEnvironment(project)
		if err != nil {
			return File{}, nil, err
		}
		env = slices.DeleteFunc(env, func(v string) bool { return slices.Contains(common, v) })
		spec.Devices = append(spec.Devices, specs.Device{
			Name: project, ContainerEdits: specs.ContainerEdits{Env: env, Hooks: []*specs.Hook{r.deviceHook("createRuntime", own)}},
		})
	}

	// The oldest version that suffices: an engine drops a file whose version it does not know.
	if spec.Version, err = specs.MinimumRequiredVersion(&spec); err != nil {
		return File{}, nil, err
	}
	content, err := json.MarshalIndent(spec, "", " ")
	return File{Path: place.Devices, Content: append(content, '\n'), check: checkDevices}, left, err
}

// deviceSettings returns the settings of the hooks of a device. If there is a control socket, the token
// is withheld, unless install was given --token. If the token is withheld, git does not need the device's
// environment, which reaches the container's first process, but not the processes of docker exec.
func (r Registration) deviceSettings() hook.Settings {
	settings := r.Settings
	settings.WithholdToken = settings.GateSocket != "" && !r.Token
	return settings
}

func (r Registration) deviceHook(stage string, settings hook.Settings) *specs.Hook {
	timeout := int(math.Ceil(settings.Timeout().Seconds()))
	return &specs.Hook{
		HookName: stage, Path: r.Binary, Args: append([]string{binary}, settings.Args(stage)...), Timeout: &timeout,
	}
}

// checkDevices reads a file of devices as engines do.
func checkDevices(path string) error {
	_, err := cdi.ReadSpec(path, 0)
	return err
}

// CheckDevicesOwner returns an error if any user other than root and this one can change the file
// of devices or put another file in its place.
func CheckDevicesOwner(path string) error {
	way, err := owner.Way(path)
	if err != nil {
		return err
	}
	for _, step := range way {
		mode := step.Info.Mode()
		sticky := mode.IsDir() && mode&fs.ModeSticky != 0
		switch uid := step.UID(); {
		case uid != 0 && uid != os.Geteuid():
			return fmt.Errorf("devices in %s: %s belongs to user %d, who could make engines run anything", path, step.Path, uid)
		case !step.IsLink() && !sticky && (mode&0o002 != 0 || mode&0o020 != 0 && !isOfOwnGroup(step.Info)):
			return fmt.Errorf("devices in %s: mode %04o of %s lets other users make engines run anything", path, mode.Perm(), step.Path)
		}
	}
	return nil
}

// isOfOwnGroup reports whether the file's group is the one that useradd(8) makes for this user alone,
// with the user's name. After a log-in on Debian, that group may write to directories that the user
// makes. Root's group does not count, since it may have other members.
func isOfOwnGroup(info fs.FileInfo) bool {
	own, err := user.Current()
	if err != nil || os.Geteuid() == 0 || own.Gid != strconv.Itoa(owner.GID(info)) {
		return false
	}
	group, err := user.LookupGroupId(own.Gid)
	return err == nil && group.Name == own.Username
}

// ReadDevices reads the file of devices back, as engines do. It returns the settings of each device's
// hook, by the name of the device, and the program that the hooks run. If there is no file, it returns
// no devices.
func (p Place) ReadDevices() (devices map[string]hook.Settings, program string, err error) {
	content, err := readDevicesFile(p.Devices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}

	var spec specs.Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		return nil, "", fmt.Errorf("%s: %w", p.Devices, err)
	}
	if spec.Kind != DeviceKind {
		return nil, "", fmt.Errorf("%s: it was not written by terok-gate install: its devices are of kind %.64q", p.Devices, spec.Kind)
	}
	if err := checkDevices(p.Devices); err != nil {
		return nil, "", fmt.Errorf("%s: engines drop the whole file: %w", p.Devices, err)
	}

	devices = map[string]hook.Settings{}
	for _, d := range spec.Devices {
		for _, h := range d.ContainerEdits.Hooks {
			if h.HookName != "createRuntime" || len(h.Args) == 0 || filepath.Base(h.Path) != binary {
				continue
			}
			settings, _, err := hook.ParseArgs(h.Args[1:])
			if err != nil {
				return devices, program, fmt.Errorf("%s: device %s: %w", p.Devices, d.Name, err)
			}
			devices[d.Name], program = settings, h.Path
		}
	}
	return devices, program, nil
}

// isDevices reports whether the content is that of a file of our devices.
func isDevices(content []byte) bool {
	var spec struct {
		Kind string `json:"kind"`
	}
	return json.Unmarshal(content, &spec) == nil && spec.Kind == DeviceKind
}

// NoDevices returns the projects that could be devices, but are not among these.
func (p Place) NoDevices(devices map[string]hook.Settings) (missing []string, err error) {
	r, there, err := p.Registration()
	if err != nil || !there {
		return nil, err
	}
	projects, err := r.projects()
	for _, project := range projects {
		if _, is := devices[project]; !is && canBeDevice(project) {
			missing = append(missing, project)
		}
	}
	return missing, err
}

// canBeDevice reports whether a device can have the project's name: CDI must take it, and it must
// not be [AnnotatedDevice].
func canBeDevice(project string) bool {
	return project != AnnotatedDevice && parser.ValidateDeviceName(project) == nil
}
