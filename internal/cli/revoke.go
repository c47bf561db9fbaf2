// The revoke command.

package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/trail"
	"terok-gate-hook/store"
)

func revokeCommand() *cli.Command {
	return &cli.Command{
		Name: "revoke", Category: forPeople,
		Usage: "revoke the tokens of a project and task, of a container, or the token on standard input",
		Flags: []cli.Flag{
			projectFlag(),
			taskFlag(),
			&cli.StringFlag{Name: "container", Usage: "the container's `ID`, in full or as list shows it"},
		},
		Action: revoke,
	}
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
	recordAll(c, trail.Revoked, revoked)
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
