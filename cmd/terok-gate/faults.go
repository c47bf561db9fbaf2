// Finds and reports faults of old histories: the gate's git refuses a push with such a fault.

package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
)

// oldFaults are faults that old histories have, by git's names for them (git-fsck(1)). Attacks do not
// use these faults.
var oldFaults = []string{
	"badDate", "badDateOverflow", "badEmail", "badName", "badTimezone", "missingEmail",
	"missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail",
	"multipleAuthors", "zeroPaddedDate", "zeroPaddedFilemode",
}

// checking returns arguments with which a fetch checks objects, and only warns of oldFaults.
func checking() []string {
	config := []string{"-c", "fetch.fsckObjects=true"}
	for _, fault := range oldFaults {
		config = append(config, "-c", "fetch.fsck."+fault+"=warn")
	}
	return config
}

var fault = regexp.MustCompile(`(?m)^warning: object [0-9a-f]+: ([A-Za-z0-9]+): `)

// faultsIn counts the oldFaults of which git has warned.
func faultsIn(said string) map[string]int {
	faults := map[string]int{}
	for _, found := range fault.FindAllStringSubmatch(said, -1) {
		if slices.Contains(oldFaults, found[1]) {
			faults[found[1]]++
		}
	}
	return faults
}

// reportFaults prints which faults the source of a repository has.
func reportFaults(faults map[string]int) {
	for _, name := range oldFaults {
		if n := faults[name]; n > 0 {
			fmt.Fprintf(os.Stderr, "note: the source has objects with the fault %s, and the gate refuses pushes of such objects: to accept them, set receive.fsck.%s: see OLD HISTORIES in terok-gate(8)\n", name, name)
		}
	}
}
