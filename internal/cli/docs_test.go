package cli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The manual page has every command with every flag, and no other.
func TestManualPageAndCommandLineAgree(t *testing.T) {
	complete := func(words ...string) []string {
		return strings.Fields(call{args: append(words, "--generate-bash-completion")}.run(t).stdout)
	}
	type flags map[string][]string // by command; before the command: ""
	has := flags{"": complete("-")}
	for _, command := range complete() {
		has[command] = slices.DeleteFunc(complete(command, "-"), func(flag string) bool {
			return flag == "--help" || flag == "-h" // described once
		})
	}

	page, err := os.ReadFile("../../docs/terok-gate-hook.8.md")
	must(t, err)
	described := flags{}
	commands := []string{""} // those that the section is about
	flag := regexp.MustCompile(`\*\*(--?[a-z-]+)\*\*`)
	for line := range strings.Lines(string(page)) {
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			commands = strings.Split(strings.TrimSpace(heading), ", ")
			for _, command := range commands {
				described[command] = nil
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
		t.Errorf("commands and their flags (-the program has, +docs/terok-gate-hook.8.md has):\n%s", diff)
	}
}
