package main

import (
	"testing"

	"terok-gate-hook/internal/testenv"
)

// Manual page and completions are found from here.
const sources = "../.."

func TestManualPageAndCommandLineAgree(t *testing.T) {
	testenv.CheckManualPage(t, "terok-gate", sources+"/docs/terok-gate.8.md")
}

func TestShellsCompleteCommandsAndFlags(t *testing.T) {
	testenv.CheckCompletions(t, "terok-gate", sources, []testenv.Completion{
		{Line: "pro", Offered: "projects", Not: "serve"},
		{Line: "--", Offered: "--version --help", Not: "--repos add"},
		{Line: "serve --", Offered: "--listen --control --max-push", Not: "--version"},
		{Line: "serve --listen 127.0.0.1:9418 --per", Offered: "--per-token", Not: "--metrics"},
		{Line: "add --repos testdata/REA", Offered: "testdata/README.md", Not: "--repos "},
	})
}
