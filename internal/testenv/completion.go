// Checks how shells complete a program's commands and flags.

package testenv

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// askShell has a script for each shell, which prints the completions of $LINE. In bash and fish, it
// calls the functions of the shell's completion. In zsh, whose completion needs a terminal, it
// types a tab.
var askShell = map[string]string{
	"bash": `
		source completions/terok-gate.bash
		COMP_LINE=$LINE COMP_POINT=${#LINE}
		read -ra COMP_WORDS <<<"$LINE"
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		compopt() { mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[-1]}"); } # as readline does later
		[[ $(complete -p "${COMP_WORDS[0]}") == *' -F _terok_gate '* ]]
		_terok_gate "${COMP_WORDS[0]}" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
		printf '%s\n' "${COMPREPLY[@]}"`,
	"fish": `
		source completions/terok-gate.fish
		complete --do-complete $LINE`,
	// The terminal also shows what is typed, so the words to wait for are typed in two parts. The
	// first tab completes what all completions have in common, and the second lists the
	// completions.
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

// Completion is a command line without the program's name, words that shells offer to complete it,
// and words that they do not offer.
type Completion struct{ Line, Offered, Not string }

// CheckCompletions checks what each shell offers if it runs in the directory of the sources.
func CheckCompletions(t *testing.T, program, sources string, rows []Completion) {
	for shell, ask := range askShell {
		t.Run(shell, func(t *testing.T) {
			path := Tool(t, shell)
			home := t.TempDir()
			for _, row := range rows {
				cmd := exec.Command(path, "-c", ask)
				cmd.Dir = sources
				cmd.Env = append(os.Environ(), "LINE="+program+" "+row.Line, "HOME="+home)
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%q: %v", row.Line, err)
				}

				offered := string(out)
				for _, want := range strings.Fields(row.Offered) {
					if !strings.Contains(offered, want) {
						t.Errorf("%q: %s is not offered: %q", row.Line, want, offered)
					}
				}
				for _, other := range strings.Fields(row.Not) {
					if strings.Contains(strings.ReplaceAll(offered, row.Line, ""), other) {
						t.Errorf("%q: %s is offered: %q", row.Line, other, offered)
					}
				}
			}
		})
	}
}
