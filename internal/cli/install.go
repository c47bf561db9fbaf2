// The install command: registering the hooks with podman for good.

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	if err := admitsSomeOnly(c, settings); err != nil {
		return err
	}
	registration, err := registrationOf(settings)
	if err != nil {
		return err
	}
	registration.Watch = place.Systemd && !c.Bool("no-watch")
	plan, err := registration.Plan(c.Context, place, templates)
	if theirs := (*podman.ForeignError)(nil); errors.As(err, &theirs) {
		for _, f := range theirs.Files {
			fmt.Printf("# to be added by hand to %s, which is somebody else's:\n%s\n", f.Path, f.Content)
		}
		return fmt.Errorf("%w: move it away, or add to it what was printed; nothing was written", err)
	}
	if err != nil {
		return err
	}
	if err := carryOut(c, plan); err != nil || c.Bool("dry-run") {
		return err
	}
	fmt.Println("token file:", registration.Settings.Tokens.Path)
	adviseOnWatch(c, place)
	return nil
}

// admitsSomeOnly fails where podman lets images choose any project.
func admitsSomeOnly(c *cli.Context, s hook.Settings) error {
	major, minor, err := podman.Version(c.Context)
	if err != nil {
		return err
	}
	if podman.ImagesAnnotate(major, minor) && len(s.AllowProjects) == 0 {
		return misusef("with podman %d.%d, whoever builds an image can choose the project, by annotating the image: "+
			"name the projects with --allow-project (podman 4.6 mends this)", major, minor)
	}
	return nil
}

// carryOut does what is planned and prints it, or prints what would be done.
func carryOut(c *cli.Context, plan podman.Plan) error {
	if !c.Bool("dry-run") {
		return plan.CarryOut(c.Context, func(what, which string) { fmt.Println(what, which) })
	}
	for _, f := range plan.Write {
		fmt.Printf("# %s\n%s\n", f.Path, f.Content)
	}
	for _, path := range plan.Remove {
		fmt.Println("would remove", path)
	}
	return nil
}

// adviseOnWatch says what the service lacks.
func adviseOnWatch(c *cli.Context, place podman.Place) {
	const later = "without it, an orphan's token goes with the next hook of any container"
	switch {
	case c.Bool("no-watch"):
	case !place.Systemd && place.User:
		fmt.Fprintln(os.Stderr, "terok-gate-hook: no systemd that runs services of yours, reap --watch for one: "+later)
	case !place.Systemd:
		fmt.Fprintln(os.Stderr, "terok-gate-hook: no systemd here to run reap --watch: "+later)
	case place.User && !podman.Lingers():
		fmt.Fprintln(os.Stderr, "terok-gate-hook: systemd ends your containers and reap --watch when you log out; for both to go on: loginctl enable-linger")
	}
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
