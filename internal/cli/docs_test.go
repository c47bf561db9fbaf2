package cli

import (
	"path/filepath"
	"testing"

	"terok-gate-hook/internal/testenv"
)

func TestManualPageAndCommandLineAgree(t *testing.T) {
	testenv.CheckManualPage(t, "terok-gate-hook", filepath.Join(repository, "docs/terok-gate-hook.8.md"))
}
