// The add command: a new repository, empty or with what another one has.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/misuse"
	"terok-gate-hook/podman"
	"terok-gate-hook/store"
)

func addCommand() *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "make a project's repository, empty or with the branches and tags of another one",
		ArgsUsage: "PROJECT [SOURCE]",
		Description: `SOURCE is a folder with a repository, or a URL as git knows them.

   terok-gate add demo
   terok-gate add demo ~/src/demo
   terok-gate add demo https://example.com/demo.git`,
		Flags:  []cli.Flag{reposFlag()},
		Action: add,
	}
}

func add(c *cli.Context) (err error) {
	if n := c.Args().Len(); n < 1 || n > 2 {
		return misuse.Errorf("takes PROJECT and perhaps SOURCE, after the flags: see terok-gate add --help")
	}
	project, source := c.Args().Get(0), c.Args().Get(1)
	if err := store.CheckName(project); err != nil {
		return misuse.Errorf("project %w", err)
	}
	repos, err := reposOf(c)
	if err != nil {
		return err
	}
	place, err := podman.OwnPlace()
	if err == nil {
		err = place.MakeRepos(c.Context, repos)
	}
	if err != nil {
		return fmt.Errorf("make the folder of repositories: %w", err)
	}
	root, err := os.OpenRoot(repos)
	if err != nil {
		return fmt.Errorf("open the folder of repositories: %w", err)
	}
	defer root.Close()
	as, err := ownerOf(repos)
	if err != nil {
		return err
	}
	final := project + ".git"
	if _, err := root.Lstat(final); err == nil {
		return fmt.Errorf("project %s is there already: %s", project, filepath.Join(repos, final))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Until it is whole, it has a name that no project has.
	unfinished := fmt.Sprintf(".%s.%d", final, os.Getpid())
	defer func() {
		if err != nil {
			_ = root.RemoveAll(unfinished)
		}
	}()
	path := filepath.Join(repos, unfinished)
	if _, err := as.git("init", "--quiet", "--bare", "--initial-branch=main", path); err != nil {
		return err
	}
	// Who moved what, should the gate's trail be lost.
	if _, err := as.git("-C", path, "config", "core.logAllRefUpdates", "always"); err != nil {
		return err
	}
	var faults map[string]int
	if source != "" {
		if faults, err = as.copy(source, path); err != nil {
			return fmt.Errorf("copy %s: %w", source, err)
		}
	}
	if err := root.Rename(unfinished, final); err != nil {
		return err
	}
	fmt.Println(filepath.Join(repos, final))
	reportFaults(faults)
	return nil
}

// copy fetches all branches and tags of the source into a repository, and has HEAD name
// the branch that it names there. It returns what git would refuse in a push.
func (o *owner) copy(source, repo string) (faults map[string]int, err error) {
	info, err := os.Stat(source)
	if err != nil && !strings.Contains(source, ":") {
		return nil, err // nor can it be a URL
	}
	fetch := o.fetchURL
	if err == nil && info.IsDir() {
		fetch = o.fetchFolder
	}

	head, said, err := fetch(source, repo, checking())
	if err != nil && strings.Contains(err.Error(), "fsck error") {
		// The source is its owner's choice.
		head, said, err = fetch(source, repo, nil)
	}
	if err != nil || !strings.HasPrefix(head, "refs/heads/") {
		return nil, err
	}
	_, err = o.git("-C", repo, "symbolic-ref", "HEAD", head)
	return faultsIn(said), err
}

// branchesAndTags are fetched as they are.
var branchesAndTags = []string{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"}

// fetchURL fetches from where git knows how, with more configuration, and returns what HEAD
// names there and what git had to say.
func (o *owner) fetchURL(url, repo string, config []string) (head, said string, err error) {
	fetch := o.command(nil, append(append(config, "-C", repo, "fetch", "--quiet", "--", url), branchesAndTags...)...)
	if _, err := run(fetch); err != nil {
		return "", "", err
	}
	listed, err := o.git("ls-remote", "--symref", "--", url, "HEAD")
	head, _, _ = strings.Cut(strings.TrimPrefix(listed, "ref: "), "\t")
	return head, fetch.said, err
}

// fetchFolder fetches from a folder that its owner may read, and the owner of the
// repository perhaps not: each runs git on his side.
func (o *owner) fetchFolder(folder, repo string, config []string) (head, said string, err error) {
	if folder, err = filepath.Abs(folder); err != nil {
		return "", "", err
	}
	const whosever = "safe.directory=*" // whoever called us has named it
	sender, err := ownerOfRepository(folder)
	if err != nil {
		return "", "", err
	}
	toSender, fromReceiver, err := os.Pipe()
	if err != nil {
		return "", "", err
	}
	toReceiver, fromSender, err := os.Pipe()
	if err != nil {
		return "", "", err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := run(sender.command([]*os.File{toSender, fromSender}, "-c", whosever, "upload-pack", folder))
		sent <- err
	}()
	// gitremote-helpers(7): fd::IN,OUT names descriptors that git was given.
	fetch := o.command(nil, append(append(config, "-C", repo, "fetch", "--quiet", "fd::3,4"), branchesAndTags...)...)
	fetch.ExtraFiles = []*os.File{toReceiver, fromReceiver}
	_, err = run(fetch)
	toReceiver.Close()
	fromReceiver.Close()
	if sendErr := <-sent; sendErr != nil {
		return "", "", sendErr // it knows better what was wrong
	}
	if err != nil {
		return "", "", err
	}
	head, err = sender.git("-c", whosever, "-C", folder, "symbolic-ref", "--quiet", "HEAD")
	if err != nil {
		return "", fetch.said, nil // it is detached
	}
	return head, fetch.said, nil
}

// ownerOfRepository is who reads a repository that may be anybody's: its configuration,
// its links and what it says is its folder are its owner's word.
func ownerOfRepository(folder string) (*owner, error) {
	reader, err := ownerOf(folder)
	if reader != nil || err != nil {
		return reader, err
	}
	reader, err = ownerOf(filepath.Join(folder, ".git"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // it is bare
	}
	return reader, err
}
