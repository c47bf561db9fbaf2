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

func (m modelToken) isDead() bool { return m.Life == Dead }

// model is a token file as it should be.
type model struct {
	*rapid.T
	file      File
	boot      string // of the machine
	tokens    map[Token]modelToken
	processes map[Token]*exec.Cmd // the living ones
}

// TestModel drives the store and other writers of the same file in random order,
// beside processes that die, pids that are used again and machines that reboot, and
// compares the file with the model after each step.
func TestModel(t *testing.T) {
	real := here
	defer func() { here = real }()

	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "model")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)

		m := &model{
			T: t, file: File{Path: filepath.Join(dir, "gate", "tokens.json")}, boot: "boot-0",
			tokens: map[Token]modelToken{}, processes: map[Token]*exec.Cmd{},
		}
		here = func() judge {
			j := real()
			j.machine, j.boot = "machine", m.boot
			return j
		}
		defer func() {
			for token := range m.processes {
				m.kill(token)
			}
		}()

		t.Repeat(map[string]func(*rapid.T){
			"a container starts": func(*rapid.T) {
				cmd, process := m.start()
				m.issue(m.grant(Alive), process, cmd)
			},
			"a container's pid is used again": func(*rapid.T) { m.reusePid() },
			"a container starts on another machine": func(*rapid.T) {
				cmd, process := m.start()
				process.Machine, process.Boot = "other", "other"
				m.issue(m.grant(Unknown), process, cmd)
			},

			"a person creates a token": func(*rapid.T) {
				m.issue(modelToken{Project: m.name("project"), Task: m.name("task"), Life: Unknown}, nil, nil)
			},

			"a process dies": func(*rapid.T) { m.endProcesses(1) },
			"the machine reboots": func(*rapid.T) {
				m.boot = fmt.Sprint(m.boot, "+")
				m.endProcesses(len(m.tokens))
			},

			"a container's poststop runs": func(*rapid.T) {
				id := m.name("container")
				if _, _, err := m.file.RevokeContainer(id); err != nil {
					t.Fatal(err)
				}
				m.remove(func(old modelToken) bool { return old.isDead() || old.Container == id && old.Life != Alive })
			},
			"a sweep runs": func(*rapid.T) {
				if _, err := m.file.Sweep(); err != nil {
					t.Fatal(err)
				}
				m.remove(modelToken.isDead)
			},
			"a task's tokens are revoked": func(*rapid.T) {
				project, task := m.name("project"), m.name("task")
				if _, err := m.file.RevokeTokenForTask(project, task); err != nil {
					t.Fatal(err)
				}
				m.remove(func(old modelToken) bool { return old.Project == project && old.Task == task })
			},

			"another program adds a token":   func(*rapid.T) { m.foreignAdd() },
			"another program revokes a task": func(*rapid.T) { m.foreignRevoke() },

			"": func(*rapid.T) { m.check() },
		})
	})
}

// check compares the file with the model.
func (m *model) check() {
	entries, err := m.file.Entries()
	if err != nil {
		m.Fatal(err)
	}

	got := map[Token]modelToken{}
	for _, e := range entries {
		got[e.Token] = modelToken{e.Project, e.Task, e.Container, e.Process.Life(), e.ReadOnly}
	}
	if diff := cmp.Diff(m.tokens, got); diff != "" {
		m.Fatalf("the file is not as the model says (-model +file):\n%s", diff)
	}
}

func (m *model) name(label string) string {
	return rapid.SampledFrom([]string{"a", "b"}).Draw(m.T, label)
}

func (m *model) grant(life Life) modelToken {
	return modelToken{m.name("project"), m.name("task"), m.name("container"), life, false}
}

func (m *model) newToken() Token {
	token, err := NewToken()
	if err != nil {
		m.Fatal(err)
	}
	return token
}

// start starts a container's process.
func (m *model) start() (*exec.Cmd, *Process) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		m.Fatal(err)
	}
	process, err := ProcessOf(cmd.Process.Pid)
	if err != nil {
		m.Fatal(err)
	}
	return cmd, process
}

func (m *model) kill(token Token) {
	if cmd := m.processes[token]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
		delete(m.processes, token)
	}
}

// endProcesses ends the living processes of the tokens, at most this many.
func (m *model) endProcesses(most int) {
	for token, held := range m.tokens {
		if most > 0 && held.Life == Alive {
			m.kill(token)
			held.Life = Dead
			m.tokens[token] = held
			most--
		}
	}
}

// remove deletes the tokens that match from the model, once they are revoked in the file, and ends
// their processes.
func (m *model) remove(match func(modelToken) bool) {
	for token, held := range m.tokens {
		if match(held) {
			m.kill(token)
			delete(m.tokens, token)
		}
	}
}

// issue issues a token, tied to the process if there is one. Issuing also sweeps, and replaces the
// container's earlier token.
func (m *model) issue(held modelToken, process *Process, cmd *exec.Cmd) {
	token := m.newToken()
	if rapid.Bool().Draw(m.T, "hashed") {
		token = Token(token.Key())
	}
	held.ReadOnly = rapid.Bool().Draw(m.T, "read only")
	_, err := m.file.Issue(Entry{
		Token: token, Grant: Grant{held.Project, held.Task}, Limits: Limits{ReadOnly: held.ReadOnly}, Container: held.Container, Process: process,
	})
	if err != nil {
		m.Fatal(err)
	}

	m.remove(modelToken.isDead)
	m.remove(func(old modelToken) bool { return held.Container != "" && old.Container == held.Container })
	m.tokens[token] = held
	if cmd != nil {
		m.processes[token] = cmd
	}
}

// reusePid adds a token of a dead process whose pid another process has by now.
func (m *model) reusePid() {
	cmd, process := m.start()
	process.Start--
	process.Inode--

	held := m.grant(Dead)
	token := m.newToken()
	m.processes[token] = cmd

	entry := Entry{Token: token, Grant: Grant{held.Project, held.Task}, Container: held.Container, Process: process}
	if _, err := m.file.Issue(entry); err == nil {
		m.Fatal("a token was issued for a process that is dead")
	}
	if err := m.file.Put(entry); err != nil {
		m.Fatal(err)
	}
	m.tokens[token] = held
}

// foreignAdd adds a token as another program would.
func (m *model) foreignAdd() {
	held := modelToken{Project: m.name("project"), Task: m.name("task"), Life: Unknown}
	token := m.newToken()
	m.foreign(func(entries map[string]map[string]any) {
		entries[string(token)] = map[string]any{"project": held.Project, "task": held.Task}
	})
	m.tokens[token] = held
}

// foreignRevoke revokes a task's tokens as another program would.
func (m *model) foreignRevoke() {
	project, task := m.name("project"), m.name("task")
	match := func(old modelToken) bool { return old.Project == project && old.Task == task }
	m.foreign(func(entries map[string]map[string]any) {
		for token, held := range m.tokens {
			if match(held) {
				delete(entries, string(token))
			}
		}
	})
	m.remove(match)
}

// foreign changes the file as another program would.
func (m *model) foreign(edit func(map[string]map[string]any)) {
	entries := map[string]map[string]any{}
	content, err := os.ReadFile(m.file.Path)
	if err == nil {
		err = json.Unmarshal(content, &entries)
	} else if os.IsNotExist(err) {
		err = os.MkdirAll(filepath.Dir(m.file.Path), 0o700)
	}
	if err != nil {
		m.Fatal(err)
	}

	edit(entries)
	if content, err = json.Marshal(entries); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(m.file.Path+".tmp", content, 0o600); err != nil {
		m.Fatal(err)
	}
	if err := os.Rename(m.file.Path+".tmp", m.file.Path); err != nil {
		m.Fatal(err)
	}
}
