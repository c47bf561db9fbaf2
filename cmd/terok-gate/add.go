// The add command: makes a repository, empty or from a source.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/desk"
	"terok-gate-hook/engines"
	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/internal/printable"
	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func addCommand() *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "make a project's repository, empty or with the branches and tags of another one",
		ArgsUsage: "PROJECT [SOURCE]",
		Description: `SOURCE is a directory with a repository, or a URL that git can fetch from.

   terok-gate add demo
   terok-gate add demo ~/src/demo
   terok-gate add demo https://example.com/demo.git
   terok-gate add --source demo git@example.com:demo.git`,
		Flags: []cli.Flag{reposFlag(), desksFlag(), timeoutFlag(), &cli.BoolFlag{
			Name: "all-branches", DisableDefaultText: true,
			Usage: "if SOURCE is a clone, copy the branches of its origin as well; of two branches with the same name, copy the clone's",
		}, &cli.BoolFlag{
			Name:  "source",
			Usage: "make SOURCE the source of an existing project, for sync, review and release; copy nothing",
		}},
		Action: add,
	}
}

func add(c *cli.Context) (err error) {
	if n := c.Args().Len(); n < 1 || n > 2 {
		return misuse.Errorf("takes PROJECT and optionally SOURCE, after the flags: see terok-gate add --help")
	}
	project, source := c.Args().Get(0), c.Args().Get(1)
	if err := store.CheckName(project); err != nil {
		return misuse.Errorf("project %w", err)
	}

	if err := checkTimeout(c); err != nil {
		return err
	}
	if err := desk.CheckSource(source); err != nil {
		return misuse.Errorf("SOURCE is refused: %w", err)
	}
	if c.Bool("source") {
		return addSource(c, project, source)
	}
	repos, err := reposOf(c)
	if err != nil {
		return err
	}
	desks, err := desksOf(c)
	if err != nil {
		return err
	}
	if _, err := desk.Sources(desks); err != nil {
		return err // before anything is made
	}
	place, err := engines.OwnPlace()
	if err == nil {
		err = place.MakeRepos(c.Context, repos)
	}
	if err != nil {
		return fmt.Errorf("make the directory of repositories: %w", err)
	}

	root, err := os.OpenRoot(repos)
	if err != nil {
		return fmt.Errorf("open the directory of repositories: %w", err)
	}
	defer root.Close()

	as, err := ownerOf(repos)
	if err != nil {
		return err
	}

	release, err := desk.Reserve(c.Context, desks, project, source)
	if err != nil {
		return fmt.Errorf("reserve the name: %w", err)
	}
	defer release()

	final := project + ".git"
	if _, err := root.Lstat(final); err == nil {
		err := fmt.Errorf("project %s exists already: %s", project, filepath.Join(repos, final))
		if source != "" {
			err = fmt.Errorf("%w; to make SOURCE its source, give --source", err)
		}
		return err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}

	// Until the repository is complete, it has a name that no project can have.
	unfinished := fmt.Sprintf(".%s.%d", final, os.Getpid())
	defer func() {
		if err != nil {
			_ = root.RemoveAll(unfinished)
		}
	}()

	path := filepath.Join(repos, unfinished)
	copied := copying{owner: as, repo: path, origins: c.Bool("all-branches"), desk: adding{c: c, desks: desks, project: project}}
	defer func() {
		if err != nil {
			copied.desk.forget()
		}
	}()
	if _, err := as.git("init", "--quiet", "--bare", "--initial-branch=main", path); err != nil {
		return err
	}
	// The reflogs record each moved ref, in case the gate's log file is lost.
	if _, err := as.git("-C", path, "config", "core.logAllRefUpdates", "always"); err != nil {
		return err
	}

	if source != "" {
		where, err := copied.from(source)
		if err != nil {
			return fmt.Errorf("copy %s: %w", source, err)
		}
		source = where
	}
	resolved, err := filepath.EvalSymlinks(repos)
	if err != nil {
		return err
	}
	if err = copied.desk.remember(source, filepath.Join(resolved, final)); err != nil {
		return fmt.Errorf("record the source: %w", err)
	}
	if err = root.Rename(unfinished, final); err != nil {
		return err
	}
	fmt.Println(filepath.Join(repos, final))
	if err := recordAdded(c, project); err != nil {
		printError(fmt.Errorf("add: %w", err)) // the project is added all the same
	}

	if left := copied.left; len(left) > 0 {
		advise("branches that only the source's origin has were not copied: %d, such as %s: to copy them, too, remove the project and add it with --all-branches", len(left), printable.Line(left[0]))
	}
	if installed, there, err := place.Registration(); there && err == nil {
		if advice := notAdmitted(installed, project); advice != "" {
			advise("%s", advice)
		}
	}
	updateDevices("add", project)
	reportFaults(faultsIn(copied.said))
	return nil
}

// addSource changes the source of an existing project. If the new source cannot be reached, the
// project keeps the old one.
func addSource(c *cli.Context, project, source string) error {
	if source == "" || c.Bool("all-branches") {
		return misuse.Errorf("--source takes PROJECT and SOURCE, and no --all-branches: see terok-gate add --help")
	}
	gate, err := gateOf(c, project)
	if err != nil {
		return err
	}
	if source, err = absoluteSource(source); err != nil {
		return err
	}
	desks, err := desksOf(c)
	if err != nil {
		return err
	}
	release, err := desk.Reserve(c.Context, desks, project, source)
	if err != nil {
		return fmt.Errorf("reserve the name: %w", err)
	}
	defer release()
	sources, err := desk.Sources(desks)
	if err != nil {
		return err
	}

	if was := sources[project].Source; was != source {
		if err := adopt(c, desks, project, source, gate, was == ""); err != nil {
			return fmt.Errorf("reach %s: %w", source, err)
		}
	}
	fmt.Println(printable.Line(project + " comes from " + source))
	return nil
}

// adopt makes or updates the project's desk for a source, and records the source. isFirst means
// that the project has no source yet.
func adopt(c *cli.Context, desks, project, source string, gate desk.Gate, isFirst bool) (err error) {
	if isFirst {
		// A desk that an earlier project of this name has left is removed.
		if err := desk.Remove(desks, project); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = desk.Remove(desks, project)
			}
		}()
	}
	d, err := openDesk(c, desks, project, source, gate)
	if err != nil {
		return err
	}
	if err := d.Adopt(c.Context); err != nil {
		return err
	}
	return desk.Remember(desks, project, source)
}

// absoluteSource returns a source that does not depend on the working directory.
func absoluteSource(source string) (string, error) {
	if strings.Contains(source, ":") && !desk.IsDirectory(source) { // a URL
		return source, nil
	}
	if _, err := os.Stat(source); err != nil {
		return "", err
	}
	return filepath.Abs(source)
}

// recordAdded writes to the trail that a project was made, and the first tip of each of its refs.
func recordAdded(c *cli.Context, project string) error {
	gate, err := gateOf(c, project)
	if err != nil {
		return err
	}
	tips, err := gate.Tips(c.Context)
	if err != nil {
		return err
	}
	events := []trail.Event{{Event: trail.Added, Project: project, From: "add", User: caller()}}
	for _, ref := range slices.Sorted(maps.Keys(tips)) {
		events = append(events, trail.Event{Event: trail.Moved, Project: project, From: "add", Ref: ref, New: tips[ref]})
	}
	return trail.Write(logFile(c.String("log-file")), events...)
}

// advise prints a hint after a success.
func advise(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "terok-gate: add: "+format+"\n", a...)
}

// notAdmitted returns a hint, with the command to run, if the installed hooks admit no container
// to the project, not even for reading. Otherwise it returns "".
func notAdmitted(installed engines.Registration, project string) string {
	if installed.Settings.AdmitsReading(project) {
		return ""
	}

	install := []string{"terok-gate", "install"}
	for _, pattern := range append(slices.Clone(installed.Settings.AllowProjects), project) {
		install = append(install, "--allow-project", pattern)
	}
	return fmt.Sprintf("the installed hooks let no container use project %s; to let containers of %[1]s use it: %[2]s", project, printable.Shell(install...))
}

// copying is the copy of a source into a new repository.
type copying struct {
	*owner  // of the repository
	repo    string
	origins bool     // copy a clone's remote-tracking branches of its origin, too
	left    []string // branches of a clone's origin that were not copied
	said    string   // what git printed about the objects
	desk    adding
}

// from fetches all branches and tags of the source, and sets HEAD to the branch that the source's HEAD
// names. It returns the source as [absoluteSource] does.
func (c *copying) from(source string) (where string, err error) {
	if where, err = absoluteSource(source); err != nil {
		return "", err
	}
	fetch := c.fromURL
	if desk.IsDirectory(where) {
		fetch = c.fromDirectory
	}

	head, err := fetch(where, checking())
	if err != nil && strings.Contains(err.Error(), "fsck error") {
		// The caller has chosen the source: copy it despite its faults.
		head, err = fetch(where, nil)
	}
	if err != nil || !strings.HasPrefix(head, "refs/heads/") {
		return where, err
	}
	_, err = c.git("-C", c.repo, "symbolic-ref", "HEAD", head)
	return where, err
}

// branchesAndTags are the refspecs of all branches and tags. ofOrigin are the refspecs of the
// remote-tracking branches that a clone has of its origin, except origin's HEAD. ofOrigin is
// fetched first, so that a branch of the clone replaces origin's branch of the same name.
var (
	branchesAndTags = []string{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}
	ofOrigin        = []string{"+" + originsPrefix + "*:refs/heads/*", "^" + originsPrefix + "HEAD"}
)

const originsPrefix = "refs/remotes/origin/"

// fromURL fetches from a URL, and returns the ref that HEAD names there. First, the operator's git
// fetches from the URL to the desk, with the operator's keys and credential helpers. Then the
// repository's owner fetches from the desk, with the additional arguments config.
func (c *copying) fromURL(url string, config []string) (head string, err error) {
	head, directory, err := c.desk.fetch(url, desk.Repository{Path: c.repo, As: deskUser(c.owner)})
	if err != nil {
		return "", err
	}
	return head, c.fetchFrom(nil, directory, config, desk.OriginRefs)
}

const anyOwner = "safe.directory=*" // git would refuse a directory of another user, but the caller has named it

// fromDirectory fetches from a directory, and returns the ref that HEAD names there, or "" if HEAD
// is detached. The owner of the new repository may not be able to read the directory. So one git
// process sends as the directory's owner, and another one receives as the repository's owner.
func (c *copying) fromDirectory(directory string, config []string) (head string, err error) {
	sender, err := ownerOfRepository(directory)
	if err != nil {
		return "", err
	}

	if c.origins {
		if err := c.fetchFrom(sender, directory, config, ofOrigin); err != nil {
			return "", err
		}
	}
	if err := c.fetchFrom(sender, directory, config, branchesAndTags); err != nil {
		return "", err
	}
	if !c.origins {
		if c.left, err = sender.onlyOrigins(directory); err != nil {
			return "", err
		}
	}

	head, err = sender.git("-c", anyOwner, "-C", directory, "symbolic-ref", "--quiet", "HEAD")
	if err != nil {
		return "", nil // HEAD is detached
	}
	return head, nil
}

// fetchFrom fetches refs from a directory. sender is the user as whom git reads the directory.
func (c *copying) fetchFrom(sender *owner, directory string, config, refs []string) error {
	toSender, fromReceiver, err := os.Pipe()
	if err != nil {
		return err
	}
	toReceiver, fromSender, err := os.Pipe()
	if err != nil {
		return err
	}

	sent := make(chan error, 1)
	go func() {
		_, err := run(sender.command([]*os.File{toSender, fromSender}, "-c", anyOwner, "upload-pack", directory))
		sent <- err
	}()

	// In fd::IN,OUT, the numbers are descriptors that git inherits (git-remote-fd(1)).
	fetch := c.command(nil, slices.Concat(config, []string{"-C", c.repo, "fetch", "--quiet", "fd::3,4"}, refs)...)
	fetch.ExtraFiles = []*os.File{toReceiver, fromReceiver}
	_, err = run(fetch)
	c.said += fetch.said

	toReceiver.Close()
	fromReceiver.Close()
	if sendErr := <-sent; sendErr != nil {
		return sendErr // more precise than err
	}
	return err
}

// onlyOrigins returns the branches of a clone's origin that the clone itself does not have.
func (o *owner) onlyOrigins(directory string) (branches []string, err error) {
	const own = "refs/heads/"
	refs, err := o.git("-c", anyOwner, "-C", directory, "for-each-ref", "--format=%(refname)", own, originsPrefix)
	if err != nil {
		return nil, err
	}

	all := strings.Fields(refs)
	for _, ref := range all {
		branch, is := strings.CutPrefix(ref, originsPrefix)
		if is && branch != "HEAD" && !slices.Contains(all, own+branch) {
			branches = append(branches, branch)
		}
	}
	return branches, nil
}

// ownerOfRepository returns the user as whom git should read a repository. If root runs this program
// and another user owns the repository, ownerOfRepository returns that user, since root's git must
// not trust the configuration, the links and the gitdir there.
func ownerOfRepository(directory string) (*owner, error) {
	reader, err := ownerOf(directory)
	if reader != nil || err != nil {
		return reader, err
	}
	reader, err = ownerOf(filepath.Join(directory, ".git"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the repository is bare
	}
	return reader, err
}
