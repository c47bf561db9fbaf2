// The commands that people use: create, revoke, verify and path.

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

func create(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	if !c.IsSet("project") || !c.IsSet("task") {
		return misusef("--project and --task are both needed")
	}
	grant := store.Grant{Project: c.String("project"), Task: c.String("task")}
	if err := grant.Valid(); err != nil {
		return misusef("%w", err)
	}
	token, err := store.NewToken()
	if err != nil {
		return err
	}
	swept, err := file.Issue(store.Entry{Token: token, Grant: grant})
	if err != nil {
		return err
	}
	log := openLog(c.String("log-file"))
	log.revoked("swept", swept)
	log.event(event{Event: "issued", Project: grant.Project, Task: grant.Task, Fingerprint: token.Fingerprint()})
	if _, err := fmt.Println(string(token)); err != nil {
		// Nobody has seen it, so nobody could revoke it.
		revoked, revokeErr := file.Revoke(func(e store.Entry) bool { return e.Token == token })
		log.revoked("revoked", revoked)
		return fmt.Errorf("print the token: %w", errors.Join(err, revokeErr))
	}
	return nil
}

func revoke(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	project, task, container := c.String("project"), c.String("task"), c.String("container")
	byTask, byContainer := c.IsSet("project") || c.IsSet("task"), c.IsSet("container")
	var revoked []store.Entry
	switch {
	case byTask && byContainer:
		return misusef("give --project and --task, or --container, not both")
	case byTask && !(c.IsSet("project") && c.IsSet("task")):
		return misusef("--project and --task go together")
	case byTask:
		revoked, err = file.RevokeTokenForTask(project, task)
	case byContainer && container == "":
		return misusef("--container is empty")
	case byContainer:
		if container, err = fullID(file, container); err == nil {
			revoked, err = file.Revoke(func(e store.Entry) bool { return e.Container == container })
		}
	default:
		var token store.Token
		if token, err = tokenFrom(os.Stdin); err == nil {
			revoked, err = file.Revoke(func(e store.Entry) bool { return e.Token == token })
		}
	}
	openLog(c.String("log-file")).revoked("revoked", revoked)
	if err != nil {
		return err
	}
	fmt.Printf("revoked %d\n", len(revoked))
	return nil
}

// fullID returns the only container id of a token that begins as list shows it, with
// 12 characters or more; else the id itself.
func fullID(file store.File, id string) (string, error) {
	entries, err := file.Entries()
	if err != nil || len(id) < shortID {
		return id, err
	}
	full := id
	for _, e := range entries {
		if !strings.HasPrefix(e.Container, id) || e.Container == full {
			continue
		}
		if full != id {
			return "", fmt.Errorf("--container %q: more than one container's id begins so", id)
		}
		full = e.Container
	}
	return full, nil
}

func verify(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	token, err := tokenFrom(os.Stdin)
	if err != nil {
		return err
	}
	entries, err := file.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Token == token {
			fmt.Printf("project %q, task %q\n", e.Project, e.Task)
			return nil
		}
	}
	return fmt.Errorf("token %s is not valid", token.Fingerprint())
}

// tokenFrom reads a token; as an argument, everybody on the machine could see it.
func tokenFrom(r io.Reader) (store.Token, error) {
	const limit = 4096
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	token := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		return "", fmt.Errorf("read a token from standard input: %w", err)
	case len(content) > limit:
		return "", fmt.Errorf("read a token from standard input: more than %d bytes", limit)
	case token == "":
		return "", errors.New("read a token from standard input: there is none")
	}
	return store.Token(token), nil
}

func path(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	fmt.Println(file.Path)
	return nil
}
