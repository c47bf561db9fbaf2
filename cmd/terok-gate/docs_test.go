package main

import (
	"path/filepath"
	"testing"

	"terok-gate-hook/internal/testenv"
)

func TestManualPageAndCommandLineAgree(t *testing.T) {
	testenv.CheckManualPage(t, filepath.Join(repository, "docs/terok-gate.8.md"), testenv.CompletedFlags(t, "terok-gate"))
}
