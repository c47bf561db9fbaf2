// Checks that a manual page describes all commands and flags of a program.

package testenv

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// CommandFlags are the flags of each command, as they are typed. Flags that come before the command
// are under "".
type CommandFlags map[string][]string

// CompletedFlags asks a program that uses urfave/cli for its commands and flags, as a shell does to
// complete them.
func CompletedFlags(t *testing.T, program string) CommandFlags {
	t.Helper()
	complete := func(words ...string) []string {
		out, err := exec.Command(Tool(t, program), append(words, "--generate-bash-completion")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}

	has := CommandFlags{"": complete("-")}
	for _, command := range complete() {
		has[command] = slices.DeleteFunc(complete(command, "-"), func(flag string) bool {
			return flag == "--help" || flag == "-h" // described once
		})
	}
	return has
}

// CheckManualPage checks that a manual page describes the program's commands and their flags, and
// no others. A heading of the third level names a command, or several with commas between them. A
// line that describes flags begins with them.
func CheckManualPage(t *testing.T, page string, has CommandFlags) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}

	described := CommandFlags{}
	commands := []string{""} // those that the section is about
	flag := regexp.MustCompile(`\*\*(--?[a-z-]+)\*\*`)
	for line := range strings.Lines(string(text)) {
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			commands = strings.Split(strings.TrimSpace(heading), ", ")
			for _, command := range commands {
				if _, has := described[command]; !has { // a command can have two sections
					described[command] = nil
				}
			}
		}

		if !strings.HasPrefix(line, "**--") {
			continue
		}
		for _, command := range commands {
			for _, match := range flag.FindAllStringSubmatch(line, -1) {
				described[command] = append(described[command], match[1])
			}
		}
	}

	if diff := cmp.Diff(has, described, cmpopts.EquateEmpty(), cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("commands and their flags (-the program has, +%s has):\n%s", page, diff)
	}
}
