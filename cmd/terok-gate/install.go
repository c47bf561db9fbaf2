// The install command: registers the hooks with podman and sets up the gate.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/engines"
	"terok-gate-hook/hook"
	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func installCommand(given *hook.Settings) *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "register the hooks with podman and Docker, and set up the gate: for the system as root, else for yourself",
		Description: "When run again, install keeps the earlier settings and changes only those that are given. Most\n" +
			"settings are reset by an empty value, as in --gate-url ''. --allow-project, --allow-read, --push, --service\n" +
			"and --allow-service replace the whole earlier list.",
		// The flags of the stage prestart, except --env-dir, which is for trying a stage by hand. Then
		// the flags of install itself.
		Flags: slices.Concat(settingFlags(given, func(f hook.Flag) bool { return f.Of("prestart") && f.Name != "env-dir" }), fleetFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "no-gate", Usage: "register only the hooks, for a gate elsewhere; --no-gate=false sets up the gate again"},
			&cli.BoolFlag{Name: "no-watch", Usage: "if no gate is set up, do not run reap --watch as a systemd service; --no-watch=false turns the service on again"},
			&cli.BoolFlag{Name: "token", Usage: "give the token also to containers that ask for a device, as Docker's containers do; --token=false withholds it again"},
			&cli.BoolFlag{Name: "show", Usage: "print the current settings, as the command that sets them; change nothing"},
			dryRunFlag(),
		}),
		Action: func(c *cli.Context) error { return install(c, *given) },
	}
}

func install(c *cli.Context, given hook.Settings) error {
	// Every user's podman must be able to read the directories that install makes in /etc,
	// whatever root's umask is.
	syscall.Umask(0o022)

	place, err := engines.OwnPlace()
	if err != nil {
		return err
	}
	was, there, err := place.Registration()
	if err != nil {
		return fmt.Errorf("%w: uninstall, then run install with all the settings that you want", err)
	}
	if c.Bool("show") {
		return show(was, there)
	}

	registration, err := changed(c, place, was, there, given)
	if err != nil {
		return err
	}
	plan, err := registration.Plan(c.Context, place)
	if err != nil {
		return explain(err)
	}
	if err := beginSources(c, registration); err != nil {
		return err
	}
	if err := carryOut(c, plan); err != nil || c.Bool("dry-run") {
		return err
	}

	for _, line := range place.Served() {
		fmt.Println(line)
	}
	fmt.Println("token file:", registration.Settings.Tokens.Path)
	if elsewhere := registration.Fleet.RepositoryGate; elsewhere != "" {
		fmt.Println("repositories: at", elsewhere)
	} else if registration.Gate {
		fmt.Println("repositories:", registration.Repos)
	}
	for _, project := range plan.Left {
		fmt.Fprintln(os.Stderr, "terok-gate: "+noDevice(project))
	}
	if advice := adviceOnService(c, place, registration); advice != "" {
		fmt.Fprintln(os.Stderr, "terok-gate: "+advice)
	}
	return nil
}

// show prints the command that sets the present settings.
func show(r engines.Registration, there bool) error {
	if !there {
		return errors.New("nothing is installed")
	}

	usual, err := defaultSources(r)
	if err != nil {
		return err
	}
	var off []string
	switch {
	case r.Gate && r.Settings.Projects == usual:
		r.Settings.Projects = "" // install sets it by default
	case r.Gate && r.Settings.Projects == "":
		off = []string{"--projects", ""}
	}
	fmt.Println("terok-gate", printable.Shell(append(r.InstallArgs(), off...)...))
	return nil
}

// changed returns the registration as the flags change it. Settings without a flag stay as they
// were. The registered hook is the program terok-gate-hook beside this one.
func changed(c *cli.Context, place engines.Place, r engines.Registration, there bool, given hook.Settings) (_ engines.Registration, err error) {
	if r.Binary, err = hookBinary(); err != nil {
		return r, err
	}
	if r, err = changedGate(c, place, r, there, given); err != nil {
		return r, err
	}

	// For a stage, an empty value in these lists is an error or matches nothing. Here it empties
	// the list.
	for _, list := range []*[]string{&given.Push, &given.AllowReads, &given.Services, &given.AllowServices} {
		if slices.Equal(*list, []string{""}) {
			*list = nil
		}
	}
	if r.Settings, err = changedSettings(c, r.Settings, given); err != nil {
		return r, err
	}
	if slices.Contains(r.Settings.AllowProjects, "") {
		return r, misuse.Errorf("--allow-project \"\": matches no project; '*' matches all")
	}
	if r.Settings.EnvDir != "" {
		return r, errors.New("the hooks' definitions have --env-dir, which is for trying a stage by hand: remove it from them")
	}

	if r.Settings.Tokens, err = orDefault(r.Settings.Tokens); err != nil {
		return r, err
	}
	if r.Settings.Tokens.Path, err = filepath.Abs(r.Settings.Tokens.Path); err != nil {
		return r, err
	}

	usual := trail.DefaultFile()
	r.Settings.LogFile = cmp.Or(r.Settings.LogFile, usual)
	if r.Settings.LogFile != usual { // the usual file is not checked: its directory is made if it is missing
		if err := trail.CheckFile(r.Settings.LogFile); err != nil {
			return r, misuse.Errorf("--log-file %w", err)
		}
	}

	if c.IsSet("token") {
		r.Token = c.Bool("token")
	}
	if c.IsSet("no-watch") {
		r.Watch = !c.Bool("no-watch")
	}
	return r, nil
}

// changedGate decides whether install sets up a gate, and changes the gate's settings. If --no-gate
// is given, that flag decides. Otherwise, the first install sets up a gate unless the flags name
// another gate. Later installs keep the earlier decision.
func changedGate(c *cli.Context, place engines.Place, r engines.Registration, there bool, given hook.Settings) (_ engines.Registration, err error) {
	was := r
	switch {
	case c.IsSet("no-gate"):
		r.Gate = !c.Bool("no-gate")
	case !there && !c.IsSet("gate-url") && !c.IsSet("gate-socket"):
		r.Gate = r.GateByDefault()
	}

	switch {
	case r.Gate && given.GateURL != "":
		return r, misuse.Errorf("--gate-url names another gate, and install sets one up: give --no-gate too")
	case r.Gate && given.GateSocket != "":
		return r, misuse.Errorf("--gate-socket names another gate, and install sets one up: give --no-gate too")
	case r.Gate && !was.Gate:
		r.Settings.GateSocket = place.Control
	case was.Gate && !r.Gate:
		r.Settings.GateSocket = ""
		r.Fleet = engines.Fleet{}
	}

	if r.Fleet, err = changedFleet(c, r.Fleet); err != nil {
		return r, err
	}
	if !r.Gate && !r.Fleet.IsNone() {
		return r, misuse.Errorf("--repository-gate and --tls-listen are for a gate that install sets up, but %s", whyNoGate(c, there, given))
	}

	before, err := defaultSources(was)
	if err != nil {
		return r, err
	}
	after, err := defaultSources(r)
	if r.Gate && (!was.Gate || r.Settings.Projects == before) {
		r.Settings.Projects = after
	}

	if r.Repos == "" {
		r.Repos = place.Repos
	}
	return r, err
}

// whyNoGate returns why install sets up no gate, and what to do to get one.
func whyNoGate(c *cli.Context, there bool, given hook.Settings) string {
	switch {
	case c.Bool("no-gate"):
		return "--no-gate tells install to set up none: give --no-gate=false instead"
	case !there:
		return "with --gate-url or --gate-socket, install sets up none: leave that flag out"
	case given.GateURL != "", given.GateSocket != "":
		return "the earlier install set up none: give --no-gate=false instead of --gate-url or --gate-socket"
	}
	return "the earlier install set up none: give --no-gate=false too"
}

// defaultSources returns the path that install sets for --projects by default: the file with the
// projects' addresses at their forges. It returns "" if there is no gate, or if the repositories are
// on another machine: the operator's desks (package desk) and the file are then there, too.
func defaultSources(r engines.Registration) (string, error) {
	if !r.Gate || r.Fleet.RepositoryGate != "" {
		return "", nil
	}
	return usualSources()
}

// usualSources returns the path of the file of addresses that commands with desks write by default.
func usualSources() (string, error) {
	desks, err := desk.DefaultDirectory()
	return desk.SourcesFile(desks), err
}

// beginSources makes the usual file of addresses if the hooks will read it, since every hook would
// report a missing file.
func beginSources(c *cli.Context, r engines.Registration) error {
	usual, err := usualSources()
	if err != nil || r.Settings.Projects != usual || c.Bool("dry-run") {
		return err
	}
	return desk.BeginSources(filepath.Dir(usual))
}

// explain takes an error of [engines.Registration.Plan], and adds what the user can do about it.
func explain(err error) error {
	if errors.Is(err, engines.ErrAnyProject) {
		return misuse.Errorf("%w: name the projects with --allow-project (podman 4.6 fixes this)", err)
	}
	if errors.Is(err, engines.ErrWider) {
		return misuse.Errorf("%w: name the projects with --allow-project, '*' for all", err)
	}

	theirs := (*engines.ForeignError)(nil)
	if !errors.As(err, &theirs) {
		return err
	}
	for _, f := range theirs.Files {
		fmt.Printf("# to be added by hand to %s, which install did not write:\n%s\n", f.Path, f.Content)
	}
	return fmt.Errorf("%w: move it away, or add to it what was printed; nothing was written", err)
}

// carryOut carries out the plan and prints each step. With --dry-run, it only prints the plan.
func carryOut(c *cli.Context, plan engines.Plan) error {
	if !c.Bool("dry-run") {
		return plan.CarryOut(c.Context, func(what, which string) { fmt.Println(what, which) })
	}
	for _, directory := range plan.Make() {
		fmt.Println("would make", directory)
	}
	for _, f := range plan.Write {
		fmt.Printf("# %s\n%s\n", f.Path, f.Content)
	}
	for _, path := range plan.Remove {
		fmt.Println("would remove", path)
	}
	return nil
}

// adviceOnService returns what the user should know if no service keeps the gate running, or if one
// does so only until the user logs out. Without a gate, it says the same of reap --watch, unless
// --no-watch is given. Otherwise it returns "".
func adviceOnService(c *cli.Context, place engines.Place, r engines.Registration) string {
	what, without := "reap --watch", "without it, the token of a dead container is not revoked until the next hook of any container runs"
	if r.Gate {
		what, without = "the gate", "no container of a project starts until you run it yourself: "+serveByHand(r)
		if len(r.Settings.Services) > 0 {
			without += ", and beside it: " + forwardByHand(r)
		}
	}

	switch {
	case !r.Gate && c.Bool("no-watch"):
	case !r.Gate && !r.Watch:
		return "reap --watch stays off (--no-watch=false turns it on): " + without
	case !place.Systemd && place.User:
		return "there is no systemd to run " + what + " for you: " + without
	case !place.Systemd:
		return "there is no systemd to run " + what + ": " + without
	case place.User && !engines.Lingers():
		return "systemd ends your containers and " + what + " when you log out; for both to go on: loginctl enable-linger"
	}
	return ""
}

// serveByHand returns the command that starts the gate by hand, without flags that would only
// repeat a default.
func serveByHand(r engines.Registration) string {
	words := append(byHand(r), "serve")
	words = append(words, r.Fleet.Args()...)
	if usual, err := control.DefaultRepos(); r.Fleet.RepositoryGate == "" && (err != nil || r.Repos != usual) {
		words = append(words, "--repos", r.Repos)
	}
	if r.Settings.GateSocket != control.DefaultSocket() || r.Fleet.Listen != "" { // with --tls-listen, serve has no default for --control
		words = append(words, "--control", r.Settings.GateSocket)
	}
	return printable.Shell(words...)
}

// forwardByHand returns the command that starts terok-gate forward by hand, as serveByHand does
// for the gate.
func forwardByHand(r engines.Registration) string {
	words := append(byHand(r), "forward")
	for _, service := range r.Settings.Services {
		words = append(words, "--service", service)
	}
	if r.Settings.GateSocket != control.DefaultSocket() {
		words = append(words, "--control", control.ForwardSocket(r.Settings.GateSocket))
	}
	return printable.Shell(words...)
}

// byHand returns the words with which the commands of serveByHand and forwardByHand begin: the
// program, then --token-file and --log-file unless they would repeat the defaults.
func byHand(r engines.Registration) []string {
	words := []string{r.GateBinary()}
	if path, err := exec.LookPath(filepath.Base(words[0])); err == nil && path == words[0] {
		words[0] = filepath.Base(path)
	}

	if usual, err := store.TokenFilePath(); err != nil || r.Settings.Tokens.Path != usual {
		words = append(words, "--token-file", r.Settings.Tokens.Path)
	}
	if r.Settings.LogFile != trail.DefaultFile() {
		words = append(words, "--log-file", r.Settings.LogFile)
	}
	return words
}
