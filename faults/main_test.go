package faults

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/testenv"
)

var (
	hookBinary, gateBinary string // both programs, built for this run

	systemLog testenv.Log
)

func TestMain(m *testing.M) {
	var namespaces uintptr
	if os.Geteuid() == 0 {
		namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID
	}

	testenv.Main(namespaces, func() (status int, err error) {
		if !testenv.Alone {
			return m.Run(), nil
		}

		if err := unix.Mount("tmpfs", testenv.Dir, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
			return 0, fmt.Errorf("mount a tmpfs: %w", err)
		}
		if err := systemLog.Listen(); err != nil {
			return 0, err
		}
		if hookBinary, err = testenv.Build("terok-gate-hook"); err != nil {
			return 0, err
		}
		if gateBinary, err = testenv.Build("terok-gate-hook/cmd/terok-gate"); err != nil {
			return 0, err
		}

		startTracers()
		status = m.Run()

		if leaks := systemLog.Matching(aToken.MatchString); len(leaks) > 0 {
			return 0, fmt.Errorf("%d messages to the system log held a token", len(leaks))
		}
		return status, nil
	})
}

// aToken matches the secret itself.
var aToken = regexp.MustCompile(`terok-g-[0-9a-f]{32}`)

var must = testenv.Must
