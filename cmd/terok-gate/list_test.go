package main

import (
	"bufio"
	"strings"
	"testing"

	"terok-gate-hook/doctor"
)

// Orphans and unknown tokens stand out on a terminal, except with NO_COLOR or on a dumb terminal.
func TestATokenThatIsNotLiveStandsOutOnATerminal(t *testing.T) {
	systemLog.Need(t) // if there is none, the tests have no /dev of their own, either
	tokens := table{rows: []*row{{project: "a", state: "orphan"}, {project: "b", state: "unknown"}, {project: "c", state: "live"}}}

	for _, row := range []struct {
		name, term, noColor string
		want                []string // what each line begins with
	}{
		{"in colour", "xterm", "", []string{"PROJECT", "\x1b[31ma ", "\x1b[33mb ", "c "}},
		{"without colour, with NO_COLOR", "xterm", "1", []string{"PROJECT", "a ", "b ", "c "}},
		{"without colour, on a dumb terminal", "dumb", "", []string{"PROJECT", "a ", "b ", "c "}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("TERM", row.term)
			t.Setenv("NO_COLOR", row.noColor)

			terminal, control := openTerminal(t)
			shown := bufio.NewReader(control)
			must(t, printTable(terminal, tokens))

			for _, want := range row.want {
				line, err := shown.ReadString('\n')
				must(t, err)
				coloured := strings.HasPrefix(want, "\x1b")
				if !strings.HasPrefix(line, want) || coloured != strings.Contains(line, "\x1b[0m") {
					t.Errorf("the line is %q, want one that begins with %q", line, want)
				}
			}
		})
	}
}

func TestAFindingsMarkIsColouredOnATerminal(t *testing.T) {
	systemLog.Need(t)
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	terminal, control := openTerminal(t)
	shown := bufio.NewReader(control)
	for state, want := range map[doctor.State]string{
		doctor.OK: "\x1b[32m✓\x1b[0m lock: free\r\n", doctor.Warning: "\x1b[33m!\x1b[0m lock: free\r\n",
		doctor.Broken: "\x1b[31m✗\x1b[0m lock: free\r\n", doctor.Fixed: "\x1b[32m✓\x1b[0m lock: free\r\n",
	} {
		printFinding(terminal, doctor.Finding{Check: "lock", State: state, Text: "free"})
		line, err := shown.ReadString('\n')
		must(t, err)
		if line != want {
			t.Errorf("%s: the line is %q, want %q", state, line, want)
		}
	}
}
