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

	"terok-gate-hook/hook"
	"terok-gate-hook/podman"
)

func installCommand(templates fs.FS) *cli.Command {
	return &cli.Command{
		Name: "install", Category: forAdministrators,
		Usage: "register the hooks with podman: for the system as root, else for yourself",
		// What the stages are told, but for what is there to try one by hand, and its own.
		Flags: append(settingFlags(func(f hook.Flag) bool { return f.Of("prestart") && f.Name != "env-dir" }),
			&cli.BoolFlag{Name: "no-watch", Usage: "do not run reap --watch as a systemd service; take an earlier one away"},
			dryRunFlag(),
		),
		Action: func(c *cli.Context) error { return install(c, templates) },
	}
}

func install(c *cli.Context, templates fs.FS) error {
	// Folders that we make in /etc are for every user's podman, whatever root's umask.
	syscall.Umask(0o022)
	settings, err := settingsOf(c)
	if err != nil {
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
	if podman.ImagesAnnotate(major, minor) && len(settings.AllowProjects) == 0 {
		return misusef("with podman %d.%d, whoever builds an image can choose the project, by annotating the image: "+
			"name the projects with --allow-project (podman 4.6 mends this)", major, minor)
	}
	registration, err := registrationOf(settings)
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
	fmt.Println("token file:", registration.Settings.Tokens.Path)
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

// registrationOf registers this binary with the settings.
func registrationOf(s hook.Settings) (r podman.Registration, err error) {
	if s.Tokens, err = orDefault(s.Tokens); err != nil {
		return r, err
	}
	if s.Tokens.Path, err = filepath.Abs(s.Tokens.Path); err != nil {
		return r, err
	}
	if s.LogFile != "" {
		if s.LogFile, err = filepath.Abs(s.LogFile); err != nil {
			return r, err
		}
	}
	r.Settings = s
	r.Binary, err = os.Executable()
	return r, err
}
