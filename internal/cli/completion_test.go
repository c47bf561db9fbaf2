package cli

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// askShell asks a shell what it offers for $LINE when somebody types a tab: bash and
// fish as their own code asks, zsh, whose completion needs a terminal, by typing.
var askShell = map[string]string{
	"bash": `
		source completions/terok-gate-hook.bash
		COMP_LINE=$LINE COMP_POINT=${#LINE}
		read -ra COMP_WORDS <<<"$LINE"
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		compopt() { mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[-1]}"); } # as readline does later
		_terok_gate_hook terok-gate-hook "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
		printf '%s\n' "${COMPREPLY[@]}"`,
	"fish": `
		source completions/terok-gate-hook.fish
		complete --do-complete $LINE`,
	// The marks are written in two parts, for the terminal shows what is typed. A first
	// tab completes what is common, a second one lists the rest.
	"zsh": `
		zmodload zsh/zpty
		zpty shell 'TERM=dumb COLUMNS=200 zsh -f -i'
		zpty -w shell 'fpath=(completions $fpath); autoload -Uz compinit; compinit -C; PS1=rea""dy'
		zpty -r -m shell line $'*ready*'
		zpty -w -n shell "$LINE"$'\t\t\C-u'
		zpty -w shell 'print do""ne'
		zpty -r -m shell line $'*done*'
		print -r -- $line`,
}

func TestShellsCompleteCommandsAndFlags(t *testing.T) {
	for shell, ask := range askShell {
		t.Run(shell, func(t *testing.T) {
			path := testenv.Tool(t, shell)
			home := t.TempDir()
			for _, row := range []struct{ line, offered, not string }{
				{"un", "uninstall", "revoke"},
				{"re", "reap revoke", "list"},
				{"--", "--token-file --log-file --version", "--json list"},
				{"list --", "--json --project", "--env-mode --token-file"},
				{"--token-file=a --log-file b prestart --env", "--env-mode --env-dir", "--mount-path"},
				{"--token-file testdata/REA", "testdata/README.md", "--json"},
				{"install --gate-url http://gate:1 --no-", "--no-watch", "--gate-url "},
				{"-- un", "", "uninstall"},
			} {
				cmd := exec.Command(path, "-c", ask)
				cmd.Dir = repository
				cmd.Env = append(os.Environ(), "LINE=terok-gate-hook "+row.line, "HOME="+home)
				r := runCommand(t, cmd)
				for _, want := range strings.Fields(row.offered) {
					if !strings.Contains(r.stdout, want) {
						t.Errorf("%q: %s is not offered: %q%s", row.line, want, r.stdout, r.stderr)
					}
				}
				for _, other := range strings.Fields(row.not) {
					if strings.Contains(strings.ReplaceAll(r.stdout, row.line, ""), other) {
						t.Errorf("%q: %s is offered: %q", row.line, other, r.stdout)
					}
				}
			}
		})
	}
}

// Somebody types a tab where a pipe or a real token file is.
func TestCompletionReadsNeitherStandardInputNorTokenFile(t *testing.T) {
	poison := filepath.Join(t.TempDir(), "tokens.json")
	must(t, os.WriteFile(poison, []byte("poison"), 0o600))
	complete := func(words ...string) string {
		c := call{args: append(words, "--generate-bash-completion"), env: []string{"TEROK_GATE_TOKEN_FILE=" + poison}}
		cmd := c.command(t)
		stdin, unread, err := os.Pipe()
		must(t, err)
		defer stdin.Close()
		_, err = io.WriteString(unread, "all of it")
		must(t, err)
		unread.Close()
		cmd.Stdin = stdin
		r := runCommand(t, cmd)
		if r.status != exitDone || r.stderr != "" {
			t.Errorf("%q: status %d, %s", words, r.status, r.stderr)
		}
		if left, err := io.ReadAll(stdin); string(left) != "all of it" {
			t.Errorf("%q leaves %q on standard input, %v", words, left, err)
		}
		return r.stdout
	}
	commands := strings.Fields(complete())
	if len(commands) < 10 {
		t.Fatalf("only %q", commands)
	}
	for _, command := range commands {
		complete(command)
		if flags := complete(command, "-"); !strings.Contains(flags, "--help") {
			t.Errorf("%s has no flags: %q", command, flags)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(poison)); len(left) != 1 {
		t.Errorf("beside the token file there is %v, %v", left, err)
	}
}
