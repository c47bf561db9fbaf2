// Skips tests for lack of something that they need.

package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Cannot skips the test for lack of something that it needs. With TEROK_TEST_ALL=1 in the
// environment, the test fails instead.
func Cannot(t testing.TB, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if err := LeaveOut(t.Name(), why); err != nil {
		t.Fatal(err)
	}
	t.Skip(why)
}

// LeaveOut records that a test, or a part of it, is left out. With TEROK_TEST_ALL=1 in the
// environment, it returns an error instead. For scripts/test, it appends a line to the file that
// TEROK_TEST_LEFT_OUT names: the reason, the package and the test without its subtests, separated
// by tabs.
func LeaveOut(test, why string) error {
	if os.Getenv("TEROK_TEST_ALL") == "1" {
		return fmt.Errorf("TEROK_TEST_ALL=1, but %s", why)
	}
	list := os.Getenv("TEROK_TEST_LEFT_OUT")
	if list == "" {
		return nil
	}
	f, err := os.OpenFile(list, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	inPackage := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
	test, _, _ = strings.Cut(test, "/")
	why, _, _ = strings.Cut(why, "\n")
	_, err = fmt.Fprintf(f, "%s\t%s\t%s\n", why, inPackage, test)
	return err
}

// Need ends the test, as Cannot does, if one of the programs is not installed.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		Tool(t, program)
	}
}

// Tool returns the path of a program. It ends the test, as Cannot does, if the program is not
// installed.
func Tool(t testing.TB, program string) (path string) {
	t.Helper()
	// Tools that make file systems are not on every user's PATH.
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	Cannot(t, "%s is not installed", program)
	return ""
}

// OnlyRoot is the most frequent reason for leaving out a test.
const OnlyRoot = "only root can run it"

// NeedRoot ends the test, as Cannot does, unless we may change owners, mount, and make namespaces.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Cannot(t, OnlyRoot)
	}
	if err := mayUnshare(); err != nil {
		Cannot(t, "root may not make namespaces here: %v", err)
	}
}

// NeedAlone ends the test, as Cannot does, unless we are root in namespaces of our own (Main).
func NeedAlone(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	if !Alone {
		Cannot(t, "the tests run without namespaces of their own: root may not make these here")
	}
}

var mayUnshare = sync.OnceValue(func() error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return cmd.Run()
})
