// Finds and reports faults of old histories, which git refuses in a push.

package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
)

// oldFaults are faults of old histories, by git's names for them (git-fsck(1)). They are harmless:
// none of them is a fault that attacks use.
var oldFaults = []string{
	"badDate", "badDateOverflow", "badEmail", "badName", "badTimezone", "missingEmail",
	"missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail",
	"multipleAuthors", "zeroPaddedDate", "zeroPaddedFilemode",
}

// checking returns arguments that make a fetch report these faults.
func checking() []string {
	config := []string{"-c", "fetch.fsckObjects=true"}
	for _, fault := range oldFaults {
		config = append(config, "-c", "fetch.fsck."+fault+"=warn")
	}
	return config
}

var fault = regexp.MustCompile(`(?m)^warning: object [0-9a-f]+: ([A-Za-z0-9]+): `)

// faultsIn counts the faults that git has named.
func faultsIn(said string) map[string]int {
	faults := map[string]int{}
	for _, found := range fault.FindAllStringSubmatch(said, -1) {
		if slices.Contains(oldFaults, found[1]) {
			faults[found[1]]++
		}
	}
	return faults
}

// reportFaults says which faults the source of a repository has.
func reportFaults(faults map[string]int) {
	for _, name := range oldFaults {
		if n := faults[name]; n > 0 {
			fmt.Fprintf(os.Stderr, "note: the source has objects with the fault %s, for which the gate refuses a push: to accept such pushes, set receive.fsck.%s: see OLD HISTORIES in terok-gate(8)\n", name, name)
		}
	}
}
