// Plans and makes the changes of install and uninstall.

package engines

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Plan lists the changes to be made at a place.
type Plan struct {
	Write  []File
	Remove []string
	Left   []string // projects that cannot be devices because of their names
	make   []directory
	place  Place
	podman bool // podman is here
}

// Make returns the directories to be made, each with its owner if that is not this user.
func (p Plan) Make() (directories []string) {
	for _, f := range p.make {
		if f.owner != nil {
			f.path += ", for user " + f.owner.name
		}
		directories = append(directories, f.path)
	}
	return directories
}

// ForeignError says that files of others are where ours would be written. The field Files has ours, not
// theirs.
type ForeignError struct{ Files []File }

func (e *ForeignError) Error() string {
	return e.Files[0].Path + " exists, and terok-gate did not write it"
}

// ErrAnyProject is wrapped by an error about a podman that would let the author of an image choose
// the project.
var ErrAnyProject = errors.New("the author of an image can choose the project, by annotating the image")

// ErrWider is wrapped by an error that names a definition in force, and the projects that it admits:
// the new hooks would replace that definition, and would admit any project.
var ErrWider = errors.New("the new hooks would take its place and admit any project")

// Plan plans to register the hooks at the place. It asks podman, and changes nothing.
func (r Registration) Plan(ctx context.Context, place Place) (Plan, error) {
	plan := Plan{place: place, podman: HasPodman()}
	others := place.others()
	var lists *hookLists
	// Podman must be there, unless there is another engine or the gate serves other machines.
	if plan.podman || len(others) == 0 && r.Fleet.Listen == "" {
		var err error
		if lists, err = r.listsOfPodman(ctx, place); err != nil {
			return plan, err
		}
	}

	var err error
	if r.Gate {
		if plan.make, err = r.gateDirectories(place); err != nil {
			return plan, err
		}
	}
	if plan.Write, err = r.files(place, lists); err != nil {
		return plan, err
	}

	if len(others) > 0 || !place.User {
		projects, err := r.projects()
		if err != nil {
			return plan, err
		}
		devices, left, err := r.devices(place, projects)
		if err != nil {
			return plan, err
		}
		plan.Write, plan.Left = append(plan.Write, devices), left
	}

	if err := checkOurs(plan.Write); err != nil {
		return plan, err
	}

	for _, unit := range unitNames {
		if slices.Contains(r.units(), unit) {
			continue
		}
		paths, err := installed(place.unitPaths(unit))
		if err != nil {
			return plan, err
		}
		plan.Remove = append(plan.Remove, paths...)
	}
	return plan, nil
}

// listsOfPodman checks that podman can run the hooks safely, and returns its lists of hook
// directories.
func (r Registration) listsOfPodman(ctx context.Context, place Place) (*hookLists, error) {
	major, minor, err := Version(ctx)
	if err != nil {
		return nil, err
	}
	if ImagesAnnotate(major, minor) && len(r.Settings.AllowProjects) == 0 {
		return nil, fmt.Errorf("with podman %d.%d, %w", major, minor, ErrAnyProject)
	}
	if place.Moved && !passesEnvironment(major, minor) {
		return nil, fmt.Errorf("podman %d.%d does not pass XDG_CONFIG_HOME on to its clean-up, which would run no poststop hook: "+
			"unset the variable, for podman too (podman 4.8 fixes this)", major, minor)
	}

	lists := hookLists{append: listsAppend(major, minor)}
	if lists.inForce, err = HookDirs(ctx); err != nil {
		return nil, err
	}
	return &lists, r.checkWhatItReplaces(place, lists.inForce)
}

// checkOurs returns a [ForeignError] if files of others are where ours would be written.
func checkOurs(files []File) error {
	var foreign []File
	for _, f := range files {
		ours, err := isOurs(f.Path)
		if err != nil {
			return err
		}
		if !ours {
			foreign = append(foreign, f)
		}
	}
	if len(foreign) > 0 {
		return &ForeignError{foreign}
	}
	return nil
}

// checkWhatItReplaces returns an error if the new hooks would admit all projects, and replace a definition
// in force that admits only some, such as a package's or, for a user, root's. Of definitions with the same
// name, podman runs only the one in the last directory, which is ours.
func (r Registration) checkWhatItReplaces(place Place, inForce []string) error {
	if len(r.Settings.AllowProjects) > 0 {
		return nil
	}
	for _, d := range DefinitionsIn(slices.DeleteFunc(slices.Clone(inForce), func(dir string) bool { return dir == place.Hooks })) {
		if strings.HasPrefix(filepath.Base(d.Path), definitionPrefix) && len(d.Settings.AllowProjects) > 0 {
			return fmt.Errorf("%s admits %q only: %w", d.Path, d.Settings.AllowProjects, ErrWider)
		}
	}
	return nil
}

// Removal plans to remove all files that install and sync wrote at this place. The hooks go first, since they
// need the gate.
func (p Place) Removal() (Plan, error) {
	paths, err := installed(slices.Concat(p.definitionPaths(), []string{p.DropIn, p.Devices}, p.syncPaths(), p.unitPaths(ForwardUnitName), p.unitPaths(GateUnitName), p.unitPaths(WatchUnitName)))
	return Plan{place: p, Remove: paths}, err
}

// installed returns those of the paths at which there are files of ours.
func installed(paths []string) (ours []string, err error) {
	for _, path := range paths {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		is, err := isOurs(path)
		if err != nil {
			return nil, err
		}
		if is {
			ours = append(ours, path)
		}
	}
	return ours, nil
}

// CarryOut makes the changes, and calls did after each one. It fails if podman then
// does not read the hook definitions.
func (p Plan) CarryOut(ctx context.Context, did func(what, which string)) error {
	for _, f := range p.make {
		if err := f.make(ctx); err != nil {
			return err
		}
		did("made", f.path)
	}

	for _, f := range p.Write {
		if err := f.Write(); err != nil {
			return err
		}
		did("wrote", f.Path)
		unit := filepath.Base(f.Path)
		if !p.place.Systemd || !slices.Contains(allUnits, unit) || unit == SyncUnitName { // the timer starts that one
			continue
		}
		if err := p.place.start(ctx, unit); err != nil {
			return fmt.Errorf("%s does not run: %w", unit, err)
		}
		did("started", unit)
	}

	if p.podman && slices.ContainsFunc(p.Write, func(f File) bool { return filepath.Dir(f.Path) == p.place.Hooks }) {
		if err := p.place.checkInForce(ctx); err != nil {
			return err
		}
	}
	return p.remove(ctx, did)
}

// remove removes the files. It stops each unit before it removes the unit's file, and at the end makes
// systemd forget the units. After a failure, it goes on with the rest.
func (p Plan) remove(ctx context.Context, did func(what, which string)) (err error) {
	var stopped []string
	for _, path := range p.Remove {
		unit := filepath.Base(path)
		if p.place.Systemd && slices.Contains(allUnits, unit) && !slices.Contains(stopped, unit) {
			err = errors.Join(err, p.place.stop(ctx, unit))
			stopped = append(stopped, unit)
		}
		removeErr := os.Remove(path)
		if removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) { // systemctl may have removed it
			err = errors.Join(err, removeErr)
			continue
		}
		did("removed", path)
	}
	if len(stopped) > 0 {
		err = errors.Join(err, p.place.forget(ctx))
	}
	return err
}

// checkInForce returns an error unless podman reads the definitions in p.Hooks.
func (p Place) checkInForce(ctx context.Context) error {
	inForce, err := HookDirs(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(inForce, p.Hooks) {
		return fmt.Errorf("podman still does not read %s: a hooks_dir that comes later than %s is in force (%q), add the directory to it",
			p.Hooks, p.DropIn, inForce)
	}
	return nil
}
