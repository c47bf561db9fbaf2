// The verify command: checks a token and prints its project, task and limits.

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/urfave/cli/v2"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:   "verify",
		Usage:  "read a token from standard input, and print its project, task, limits and other projects; exit status 1 unless a gate honours the token now",
		Action: verify,
	}
}

func verify(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	token, err := readToken()
	if err != nil {
		return err
	}
	saveMemory()

	// The gate uses the same reader, so verify refuses what the gate refuses.
	var unreadable error
	found, ok := file.Reader(func(err error) { unreadable = err }).Find(string(token))
	if unreadable != nil && !errors.Is(unreadable, fs.ErrNotExist) {
		return unreadable
	}
	if !ok {
		return fmt.Errorf("token %s is not valid", token.Fingerprint())
	}

	limits := ""
	if found.Limits.Limited() {
		limits = ", pushes to " + pushesOf(found.Limits)
	}
	if also := alsoOf(found.Also); also != "" {
		limits += "; other projects: " + also
	}
	fmt.Printf("project %q, task %q%s\n", found.Project, found.Task, limits)
	return nil
}
