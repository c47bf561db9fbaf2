// Measures what it costs to give a container many projects, or limits.

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// many is how many projects a container can have besides its own.
const many = 32

// several compares containers with many projects, with limits, and with neither.
type several struct {
	Start     series // milliseconds of a whole prestart that attaches the gate; keys: oneProject, manyProjects
	PerSecond series // answers a second to the first request of a fetch; keys: unlimited, limited, forMany
}

const (
	oneProject   = "its own project"
	manyProjects = "32 more, with addresses"

	unlimited = "unlimited"
	limited   = "limited"
	forMany   = "for 32 more projects"
)

func (w *world) several(h *house, rounds int) (several, error) {
	s := several{series{}, series{}}
	if err := w.severalStarts(h, s.Start, rounds); err != nil {
		return s, err
	}

	also := store.Also{}
	for i := range many {
		also[fmt.Sprintf("project-%02d", i)] = store.AccessRead
	}
	grant := store.Grant{Project: small, Task: "several"}
	clients := map[string]*house{} // copies of h, each with a token of its own
	for name, entry := range map[string]store.Entry{
		unlimited: {Grant: grant},
		limited:   {Grant: grant, Limits: store.Limits{AppendOnly: true, Push: [][]string{{"refs/heads/bench/*"}, {"refs/heads/**"}}}},
		forMany:   {Grant: grant, Also: also},
	} {
		token, err := h.issue(entry)
		if err != nil {
			return s, err
		}
		client := *h
		client.token = token
		clients[name] = &client
	}

	// Protocol 2 is used, since the gate then answers without git: only the gate is measured.
	for range rounds {
		for name, client := range clients { // in random order
			perSecond, err := client.ask("gate", 2, 1, 100*time.Millisecond)
			if err != nil {
				return s, fmt.Errorf("%s: %w", name, err)
			}
			s.PerSecond[name] = append(s.PerSecond[name], perSecond)
		}
	}
	return s, nil
}

// severalStarts measures the starts of containers with one project and with many. All projects
// have an address in the same file.
func (w *world) severalStarts(h *house, took series, rounds int) error {
	var others []string
	addresses := map[string]map[string]string{}
	for i := range many + 1 {
		project := fmt.Sprintf("project-%02d", i)
		if i == many {
			project = "demo" // the container's own
		} else {
			others = append(others, project)
		}
		addresses[project] = map[string]string{
			"source": "git@forge.example:org/" + project + ".git", "scheme": "ssh", "host": "forge.example", "path": "org/" + project,
		}
	}
	text, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	file := filepath.Join(w.dir, "projects.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}

	names := []string{oneProject, manyProjects}
	for i := range rounds {
		for _, at := range rand.Perm(len(names)) {
			state, _, end, err := w.container(fmt.Sprintf("5e7e%04d%d", i, at), syscall.CLONE_NEWNET)
			if err != nil {
				return err
			}
			if names[at] == manyProjects {
				state = strings.Replace(state, `"annotations":{`, fmt.Sprintf(`"annotations":{%q:%q,`, hook.ReadAnnotation, strings.Join(others, ",")), 1)
			}
			one, err := timed(exec.Command(w.programs["hook"], "--token-file", w.tokens(), "--log-file", w.log(),
				"prestart", "--gate-socket", h.control, "--projects", file), state)
			end()
			if err != nil {
				return err
			}
			took.add(names[at], one)
		}
	}
	return nil
}

func (s several) String() string {
	one, all := s.Start.median(oneProject), s.Start.median(manyProjects)
	text := fmt.Sprintf("prestart: %s %.2f ms, %s %.2f ms (%.2f)\n", oneProject, one, manyProjects, all, all/one)
	for _, name := range []string{unlimited, limited, forMany} {
		text += fmt.Sprintf("a token that is %s: %.0f/s (%.2f)\n", name, s.PerSecond.median(name), s.PerSecond.median(name)/s.PerSecond.median(unlimited))
	}
	return strings.TrimSuffix(text, "\n")
}
