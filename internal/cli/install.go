// The install command: registering the hooks with podman for good.

package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/podman"
)

func installCommand(templates fs.FS) *cli.Command {
	return &cli.Command{
		Name: "install", Category: forAdministrators,
		Usage: "register the hooks with podman: for the system as root, else for yourself",
		// Those of the stages, which install carries over, and its own.
		Flags: append(mountFlags(),
			&cli.BoolFlag{Name: "no-watch", Usage: "do not run reap --watch as a systemd service; take an earlier one away"},
			dryRunFlag(),
		),
		Action: func(c *cli.Context) error { return install(c, templates) },
	}
}

func install(c *cli.Context, templates fs.FS) error {
	// Folders that we make in /etc are for every user's podman, whatever root's umask.
	syscall.Umask(0o022)
	if _, err := hookOf(c); err != nil {
		return err
	}
	place, err := placeOfOurs()
	if err != nil {
		return err
	}
	major, minor, err := podman.Version(c.Context)
	if err != nil {
		return err
	}
	if podman.ImagesAnnotate(major, minor) && len(c.StringSlice("allow-project")) == 0 {
		return misusef("with podman %d.%d, whoever builds an image can choose the project, by annotating the image: "+
			"name the projects with --allow-project (podman 4.6 mends this)", major, minor)
	}
	registration, err := registrationOf(c)
	if err != nil {
		return err
	}
	registration.Watch = place.Systemd && !c.Bool("no-watch")
	inForce, err := podman.HookDirs(c.Context)
	if err != nil {
		return err
	}
	files, err := registration.Files(place, templates, inForce)
	if err != nil {
		return err
	}
	theirs, err := podman.Foreign(files)
	if err != nil {
		return err
	}
	for _, f := range theirs {
		fmt.Printf("# to be added by hand to %s, which is somebody else's:\n%s\n", f.Path, f.Content)
	}
	if len(theirs) > 0 {
		return fmt.Errorf("%s is there and not ours: move it away, or add to it what was printed; nothing was written", theirs[0].Path)
	}
	for _, f := range files {
		if c.Bool("dry-run") {
			fmt.Printf("# %s\n%s\n", f.Path, f.Content)
			continue
		}
		if err := f.Write(); err != nil {
			return err
		}
		fmt.Println("wrote", f.Path)
	}
	if c.Bool("dry-run") {
		if c.Bool("no-watch") {
			return disableWatch(c, place)
		}
		return nil
	}
	if inForce, err = podman.HookDirs(c.Context); err != nil {
		return err
	}
	if !slices.Contains(inForce, place.Hooks) {
		return fmt.Errorf("podman still does not read %s: a hooks_dir that comes later than %s is in force (%q), add the folder to it",
			place.Hooks, place.DropIn, inForce)
	}
	fmt.Println("token file:", registration.TokenFile)
	return enableWatch(c, place, registration)
}

// enableWatch has the orphans die at once, where systemd can see to it.
func enableWatch(c *cli.Context, place podman.Place, r podman.Registration) error {
	const later = "without it, an orphan's token goes with the next hook of any container"
	switch {
	case c.Bool("no-watch"):
		return disableWatch(c, place)
	case !place.Systemd && place.User:
		fmt.Fprintln(os.Stderr, "terok-gate-hook: no systemd that runs services of yours, reap --watch for one: "+later)
		return nil
	case !place.Systemd:
		fmt.Fprintln(os.Stderr, "terok-gate-hook: no systemd here to run reap --watch: "+later)
		return nil
	}
	if err := place.EnableWatch(c.Context); err != nil {
		return fmt.Errorf("%w: %s", err, later)
	}
	fmt.Println("started", filepath.Base(place.Unit))
	if place.User && !podman.Lingers() {
		fmt.Fprintln(os.Stderr, "terok-gate-hook: systemd ends your containers and reap --watch when you log out; for both to go on: loginctl enable-linger")
	}
	return nil
}

// disableWatch takes back the service of an earlier install.
func disableWatch(c *cli.Context, place podman.Place) error {
	paths, err := podman.Installed(place)
	if err != nil {
		return err
	}
	return remove(c, place, slices.DeleteFunc(paths, func(path string) bool {
		return filepath.Base(path) != filepath.Base(place.Unit)
	}))
}

// registrationOf carries the flags over into the definitions, those that were given.
func registrationOf(c *cli.Context) (podman.Registration, error) {
	var r podman.Registration
	file, err := tokenFile(c)
	if err != nil {
		return r, err
	}
	if r.TokenFile, err = filepath.Abs(file.Path); err != nil {
		return r, err
	}
	if r.Binary, err = os.Executable(); err != nil {
		return r, err
	}
	if c.IsSet("lock-timeout") {
		r.LockTimeout = c.Duration("lock-timeout")
	}
	if log := c.String("log-file"); log != "" {
		if r.LogFile, err = filepath.Abs(log); err != nil {
			return r, err
		}
	}
	r.Annotations = []string{c.String("project-annotation"), c.String("task-annotation")}
	r.StageFlags = map[string][]string{
		"precreate": flagsGiven(c, precreateFlags()),
		"prestart":  flagsGiven(c, mountFlags()),
	}
	return r, nil
}

func flagsGiven(c *cli.Context, flags []cli.Flag) []string {
	var given []string
	for _, flag := range flags {
		name := flag.Names()[0]
		if !c.IsSet(name) {
			continue
		}
		values := []string{c.String(name)}
		if _, repeatable := flag.(*cli.StringSliceFlag); repeatable {
			values = c.StringSlice(name)
		}
		for _, value := range values {
			given = append(given, "--"+name, value)
		}
	}
	return given
}
