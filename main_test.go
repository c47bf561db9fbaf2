package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/testenv"
)

// Each container with a token starts only after the hook has run. So the hook must be small: it links
// neither the gate nor a package for command lines.
func TestTheHookLinksOnlyWhatStagesNeed(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "terok-gate-hook").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"terok-gate-hook/hook", "terok-gate-hook/store", "terok-gate-hook/internal/control",
		"terok-gate-hook/internal/printable", "terok-gate-hook/internal/trail", "terok-gate-hook/internal/untrusted", "terok-gate-hook/internal/version",
		"github.com/gofrs/flock", "github.com/moby/sys/mountinfo", "github.com/opencontainers/runtime-spec/specs-go", "golang.org/x/sys/unix",
	}
	for _, name := range strings.Fields(string(out)) {
		if name == "net/http" || name == "regexp" {
			t.Errorf("the hook links %s", name)
		}
		first, _, _ := strings.Cut(name, "/")
		standard := !strings.Contains(first, ".") && first != "terok-gate-hook"
		if !standard && name != "terok-gate-hook" && !slices.Contains(allowed, name) {
			t.Errorf("the hook links %s", name)
		}
	}
}

func TestManualPageAndFlagsAgree(t *testing.T) {
	has := testenv.CommandFlags{"": {"--help", "-h", "--version", "-v"}}
	for _, f := range hook.Flags {
		if f.Common() {
			has[""] = append(has[""], "--"+f.Name)
		}
	}
	for _, stage := range hook.Stages {
		has[stage] = nil
		for _, f := range hook.Flags {
			if f.Of(stage) {
				has[stage] = append(has[stage], "--"+f.Name)
			}
		}
	}
	testenv.CheckManualPage(t, "docs/terok-gate-hook.8.md", has)
}
