package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

func TestShellsCompleteCommandsAndFlags(t *testing.T) {
	testenv.CheckCompletions(t, "terok-gate", repository, []testenv.Completion{
		{Line: "un", Offered: "uninstall", Not: "revoke"},
		{Line: "re", Offered: "reap revoke", Not: "list"},
		{Line: "pro", Offered: "projects", Not: "serve"},
		{Line: "serve --", Offered: "--listen --control --max-push", Not: "--version --token-file"},
		{Line: "serve --listen 127.0.0.1:9418 --per", Offered: "--per-token", Not: "--metrics"},
		{Line: "add --repos testdata/REA", Offered: "testdata/README.md", Not: "--repos "},
		{Line: "--", Offered: "--token-file --log-file --version", Not: "--json list"},
		{Line: "list --", Offered: "--json --project", Not: "--env-mode --token-file"},
		{Line: "--token-file=a --log-file b install --env", Offered: "--env-mode", Not: "--access"},
		{Line: "--token-file testdata/REA", Offered: "testdata/README.md", Not: "--json"},
		{Line: "install --gate-url http://gate:1 --no-", Offered: "--no-watch", Not: "--gate-url "},
		{Line: "install --tls-", Offered: "--tls-cert --tls-key --tls-ca --tls-listen", Not: "--vouch-file"},
		{Line: "install --rep", Offered: "--repository-gate", Not: "--revoke"},
		{Line: "install --tls-cert testdata/REA", Offered: "testdata/README.md", Not: "--tls-cert "},
		{Line: "install --tls-key testdata/REA", Offered: "testdata/README.md", Not: "--tls-key "},
		{Line: "serve --tls-ca testdata/REA", Offered: "testdata/README.md", Not: "--tls-ca "},
		{Line: "serve --vouch-file testdata/REA", Offered: "testdata/README.md", Not: "--vouch-file "},
		{Line: "-- un", Not: "uninstall"},
	})
}

// Completion must not consume a pipe on standard input, nor open a real token file.
func TestCompletionReadsNeitherStandardInputNorTokenFile(t *testing.T) {
	poison := filepath.Join(t.TempDir(), "tokens.json")
	must(t, os.WriteFile(poison, []byte("poison"), 0o600))

	complete := func(words ...string) string {
		c := call{args: append(words, "--generate-bash-completion"), env: []string{"TEROK_GATE_TOKEN_FILE=" + poison}}
		cmd := c.command(t)

		stdin, writer, err := os.Pipe()
		must(t, err)
		defer stdin.Close()
		_, err = io.WriteString(writer, "all of it")
		must(t, err)
		writer.Close()
		cmd.Stdin = stdin

		r := runProgram(t, cmd)
		if r.status != exitDone || r.stderr != "" {
			t.Errorf("%q: status %d, %s", words, r.status, r.stderr)
		}
		if left, err := io.ReadAll(stdin); string(left) != "all of it" {
			t.Errorf("%q leaves %q on standard input, %v", words, left, err)
		}
		return r.stdout
	}

	commands := strings.Fields(complete())
	if len(commands) < 10 {
		t.Fatalf("only %q", commands)
	}
	for _, command := range commands {
		complete(command)
		if flags := complete(command, "-"); !strings.Contains(flags, "--help") {
			t.Errorf("%s has no flags: %q", command, flags)
		}
	}

	complete("serve", "--control") // whose value is yet to come
	if left, err := os.ReadDir(filepath.Dir(poison)); len(left) != 1 {
		t.Errorf("beside the token file there is %v, %v", left, err)
	}
}
