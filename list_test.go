package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Orphans stand out on a terminal, and nothing else than a terminal is sent colours.
// (A pseudo-terminal whose session ends may drop what was written, so this one has
// none: both its ends are ours.)
func TestATokenThatIsNotLiveStandsOutOnATerminal(t *testing.T) {
	need(t, systemLog.missing) // and so no /dev of our own
	rows := []listed{{Project: "a", State: "orphan"}, {Project: "b", State: "unknown"}, {Project: "c", State: "live"}}
	for _, row := range []struct {
		name, term, noColor string
		want                []string // what each line begins with
	}{
		{"in colour", "xterm", "", []string{"PROJECT", "\x1b[31ma ", "\x1b[33mb ", "c "}},
		{"not for who wants none", "xterm", "1", []string{"PROJECT", "a ", "b ", "c "}},
		{"not on a dumb one", "dumb", "", []string{"PROJECT", "a ", "b ", "c "}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("TERM", row.term)
			t.Setenv("NO_COLOR", row.noColor)
			control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
			must(t, err)
			defer control.Close()
			must(t, unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0))
			number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
			must(t, err)
			terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
			must(t, err)
			defer terminal.Close()

			must(t, printTable(terminal, rows))
			shown := bufio.NewReader(control)
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
