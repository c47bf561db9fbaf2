package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// podmanStandIn is the podman of these tests.
//
// It prints its containers' names, which it reads from the file that TEROK_TEST_PODMAN names; a
// fifo makes it wait. Its version is TEROK_TEST_PODMAN_VERSION, and it reads hooks from the
// directories that the user's drop-in names.
func podmanStandIn() {
	asked := func(words string) bool { return strings.HasPrefix(strings.Join(os.Args[1:], " "), words) }
	switch {
	case asked("version --format {{.Client.Version}}"):
		fmt.Println(cmp.Or(os.Getenv("TEROK_TEST_PODMAN_VERSION"), "5.0.0"))
		return
	case asked("--log-level debug run "):
		config := cmp.Or(os.Getenv("XDG_CONFIG_HOME"), os.Getenv("HOME")+"/.config")
		conf, _ := os.ReadFile(config + "/containers/containers.conf.d/99-terok-gate.conf")
		dirs := []string{"/usr/share/containers/oci/hooks.d"}

		for _, quoted := range regexp.MustCompile(`"[^"]*"`).FindAllString(string(conf), -1) {
			dirs = append(dirs, strings.Trim(quoted, `"`))
		}
		for _, dir := range dirs {
			fmt.Fprintf(os.Stderr, "level=debug msg=\"reading hooks from %s\"\n", dir)
		}
		os.Exit(127)
	case !asked("ps --all --no-trunc --format {{.ID}} {{.Names}}"):
		os.Exit(125)
	}

	answer := os.Getenv("TEROK_TEST_PODMAN")
	if answer == "" {
		return // no containers
	}

	file, err := os.Open(answer)
	if err == nil {
		_, err = io.Copy(os.Stdout, file)
	}
	if err != nil {
		os.Stderr.WriteString("Error: " + err.Error() + "\n")
		os.Exit(125)
	}
}
