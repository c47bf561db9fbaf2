package store

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// modelToken is what the model knows of a token.
type modelToken struct {
	Project, Task, Container string
	Life                     Life
	ReadOnly                 bool
}

// TestModel drives the store and other writers of the same file in random order,
// beside processes that die, pids that are used again and machines that reboot, and
// compares the file with the model after each step.
func TestModel(t *testing.T) {
	real := here
	defer func() { here = real }()

	rapid.Check(t, func(t *rapid.T) {
		boot := "boot-0"
		here = func() judge {
			j := real()
			j.machine, j.boot = "machine", boot
			return j
		}

		dir, err := os.MkdirTemp("", "model")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)

		file := File{Path: filepath.Join(dir, "gate", "tokens.json")}
		model := map[Token]modelToken{}
		processes := map[Token]*exec.Cmd{} // the living ones
		kill := func(token Token) {
			if cmd := processes[token]; cmd != nil {
				cmd.Process.Kill()
				cmd.Wait()
				delete(processes, token)
			}
		}
		defer func() {
			for token := range processes {
				kill(token)
			}
		}()

		remove := func(match func(modelToken) bool) {
			for token, m := range model {
				if match(m) {
					kill(token) // nothing to do with the store: the test is done with it
					delete(model, token)
				}
			}
		}
		dead := func(m modelToken) bool { return m.Life == Dead }
		name := func(label string) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, label) }

		issue := func(m modelToken, process *Process, cmd *exec.Cmd) {
			token, err := NewToken()
			if err != nil {
				t.Fatal(err)
			}

			if rapid.Bool().Draw(t, "hashed") {
				token = Token(token.Key())
			}
			m.ReadOnly = rapid.Bool().Draw(t, "read only")
			_, err = file.Issue(Entry{
				Token: token, Grant: Grant{m.Project, m.Task}, Limits: Limits{ReadOnly: m.ReadOnly}, Container: m.Container, Process: process,
			})
			if err != nil {
				t.Fatal(err)
			}

			remove(dead)
			remove(func(old modelToken) bool { return m.Container != "" && old.Container == m.Container })
			model[token] = m
			if cmd != nil {
				processes[token] = cmd
			}
		}

		start := func() (*exec.Cmd, *Process) {
			cmd := exec.Command("sleep", "600")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			process, err := ProcessOf(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			return cmd, process
		}

		grant := func(life Life) modelToken {
			return modelToken{name("project"), name("task"), name("container"), life, false}
		}

		// foreign changes the file as another program would.
		foreign := func(edit func(map[string]map[string]any)) {
			entries := map[string]map[string]any{}
			content, err := os.ReadFile(file.Path)
			if err == nil {
				err = json.Unmarshal(content, &entries)
			} else if os.IsNotExist(err) {
				err = os.MkdirAll(filepath.Dir(file.Path), 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}

			edit(entries)
			if content, err = json.Marshal(entries); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file.Path+".tmp", content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file.Path+".tmp", file.Path); err != nil {
				t.Fatal(err)
			}
		}

		t.Repeat(map[string]func(*rapid.T){
			"a container starts": func(*rapid.T) {
				cmd, process := start()
				issue(grant(Alive), process, cmd)
			},
			"a container's pid is used again": func(*rapid.T) {
				cmd, process := start()
				process.Start--
				process.Inode--

				m := grant(Dead)
				token, err := NewToken()
				if err != nil {
					t.Fatal(err)
				}
				processes[token] = cmd

				entry := Entry{Token: token, Grant: Grant{m.Project, m.Task}, Container: m.Container, Process: process}
				if _, err := file.Issue(entry); err == nil {
					t.Fatal("a token was issued for a process that is dead")
				}
				if err := file.Put(entry); err != nil {
					t.Fatal(err)
				}
				model[token] = m
			},
			"a container starts on another machine": func(*rapid.T) {
				cmd, process := start()
				process.Machine, process.Boot = "other", "other"
				issue(grant(Unknown), process, cmd)
			},

			"a person creates a token": func(*rapid.T) {
				issue(modelToken{Project: name("project"), Task: name("task"), Life: Unknown}, nil, nil)
			},

			"a process dies": func(*rapid.T) {
				for token, m := range model {
					if m.Life == Alive {
						kill(token)
						m.Life = Dead
						model[token] = m
						break
					}
				}
			},
			"the machine reboots": func(*rapid.T) {
				boot = fmt.Sprint(boot, "+")
				for token, m := range model {
					if m.Life == Alive {
						kill(token)
						m.Life = Dead
						model[token] = m
					}
				}
			},

			"a container's poststop runs": func(*rapid.T) {
				id := name("container")
				if _, _, err := file.RevokeContainer(id); err != nil {
					t.Fatal(err)
				}
				remove(func(m modelToken) bool { return dead(m) || m.Container == id && m.Life != Alive })
			},
			"a sweep runs": func(*rapid.T) {
				if _, err := file.Sweep(); err != nil {
					t.Fatal(err)
				}
				remove(dead)
			},
			"a task's tokens are revoked": func(*rapid.T) {
				project, task := name("project"), name("task")
				if _, err := file.RevokeTokenForTask(project, task); err != nil {
					t.Fatal(err)
				}
				remove(func(m modelToken) bool { return m.Project == project && m.Task == task })
			},

			"another program adds a token": func(*rapid.T) {
				m := modelToken{Project: name("project"), Task: name("task"), Life: Unknown}
				token, err := NewToken()
				if err != nil {
					t.Fatal(err)
				}
				foreign(func(entries map[string]map[string]any) {
					entries[string(token)] = map[string]any{"project": m.Project, "task": m.Task}
				})
				model[token] = m
			},
			"another program revokes a task": func(*rapid.T) {
				project, task := name("project"), name("task")
				match := func(m modelToken) bool { return m.Project == project && m.Task == task }
				foreign(func(entries map[string]map[string]any) {
					for token, m := range model {
						if match(m) {
							delete(entries, string(token))
						}
					}
				})
				remove(match)
			},

			"": func(*rapid.T) {
				entries, err := file.Entries()
				if err != nil {
					t.Fatal(err)
				}

				got := map[Token]modelToken{}
				for _, e := range entries {
					got[e.Token] = modelToken{e.Project, e.Task, e.Container, e.Process.Life(), e.ReadOnly}
				}
				if diff := cmp.Diff(model, got); diff != "" {
					t.Fatalf("the file is not as the model says (-model +file):\n%s", diff)
				}
			},
		})
	})
}
