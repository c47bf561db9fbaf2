package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/doctor"
)

// Orphans stand out on a terminal, and nothing else than a terminal is sent colours.
func TestATokenThatIsNotLiveStandsOutOnATerminal(t *testing.T) {
	systemLog.Need(t) // and so no /dev of our own
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
			terminal, shown := openTerminal(t)
			must(t, printTable(terminal, rows))
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
	terminal, shown := openTerminal(t)
	for state, want := range map[doctor.State]string{
		doctor.OK: "\x1b[32m✓\x1b[0m lock: free\r\n", doctor.Warning: "\x1b[33m!\x1b[0m lock: free\r\n",
		doctor.Broken: "\x1b[31m✗\x1b[0m lock: free\r\n", doctor.Mended: "\x1b[32m✓\x1b[0m lock: free\r\n",
	} {
		printFinding(terminal, doctor.Finding{Check: "lock", State: state, Text: "free"})
		line, err := shown.ReadString('\n')
		must(t, err)
		if line != want {
			t.Errorf("%s: the line is %q, want %q", state, line, want)
		}
	}
}

// openTerminal returns a terminal and what it shows. (A pseudo-terminal whose session
// ends may drop what was written, so this one has none: both its ends are ours.)
func openTerminal(t *testing.T) (terminal *os.File, shown *bufio.Reader) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { control.Close() })
	must(t, unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { terminal.Close() })
	return terminal, bufio.NewReader(control)
}
