package main

import (
	"os"
	"path/filepath"
	"testing"

	"terok-gate-hook/store"
)

// A user who can write the token file can name any process there, and with it a network. Root
// must not enter a network just because the token file names it.
func TestAttachDoesNotGoByTheTokenFile(t *testing.T) {
	dir := t.TempDir()
	tokens := store.File{Path: filepath.Join(dir, "tokens.json")}
	process, err := store.ProcessOf(os.Getpid())
	must(t, err)
	_, err = tokens.Issue(store.Entry{
		Token: "terok-g-00000000000000000000000000000000", Grant: store.Grant{Project: "demo", Task: "1"}, Container: "forged",
		Process: process, Gate: &store.Attached{Listen: "127.0.0.1:9418"},
	})
	must(t, err)
	r := call{args: []string{"--token-file", tokens.Path, "attach", "--gate-socket", filepath.Join(dir, "gate/control")}}.run(t)
	if r.status != 0 || r.stdout != "attached 0\n" {
		t.Errorf("attach ends with status %d and says %q, %q", r.status, r.stdout, r.stderr)
	}
}
