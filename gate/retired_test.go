package gate_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// kinds are kinds of entries in the token file, and what the programs that the gate replaces make of
// them. There are two versions of these programs, which are named after their key for the project.
// Each entry is for the token of a container.
var kinds = map[string]struct {
	flags []string
	// Whether each of the versions serves such a token, and whether it keeps such an entry. The order
	// is that of versions.
	serve, keep [2]bool
}{
	"neither hashed nor limited":     {nil, [2]bool{true, true}, [2]bool{true, true}},
	"hashed":                         {[]string{"--hashed"}, [2]bool{}, [2]bool{true, true}},
	"read only":                      {[]string{"--access", "read"}, [2]bool{}, [2]bool{}},
	"pushes to some refs":            {[]string{"--push", "refs/heads/agent/**"}, [2]bool{}, [2]bool{}},
	"hashed and read only":           {[]string{"--hashed", "--access", "read"}, [2]bool{}, [2]bool{}},
	"hashed and pushes to some refs": {[]string{"--hashed", "--push", "refs/heads/**"}, [2]bool{}, [2]bool{}},
}

var versions = []string{"project", "scope"}

// retired returns a command that runs a program that the gate replaces.
func retired(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "python3"), append([]string{"testdata/retired.py"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stderr = os.Stderr
	return cmd
}

func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// retire starts the replaced gate of a version over the harness's repositories, and returns that
// gate's address.
func (h *harness) retire(t *testing.T, version string) (address string) {
	t.Helper()
	cmd := retired(t, "serve", h.tokens.Path, version, h.repos)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the retired gate: %v", err)
		}
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	return "127.0.0.1:" + strings.TrimSpace(port)
}

func TestAnotherGateTakesNoLimitedOrHashedTokenForAPlainOne(t *testing.T) {
	for i, version := range versions {
		for name, kind := range kinds {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				h := open(t, gate.Settings{})
				demo := h.demo(t, "demo", 1)
				ours, theirs := h.address, h.retire(t, version)
				token := h.containerToken(t, kind.flags, nil)

				// Ours serves it.
				git(t, h.dir, "clone", "--quiet", h.url(token, "demo"), "work")
				work := filepath.Join(h.dir, "work")

				h.address = theirs
				git(t, work, "remote", "set-url", "origin", h.url(token, "demo"))
				if kind.serve[i] {
					git(t, work, "fetch", "origin")
					git(t, work, "push", "--quiet", "origin", "main:pushed")
					return
				}

				for _, args := range [][]string{{"fetch", "origin"}, {"push", "origin", "main:pushed"}} {
					if said := gitFails(t, work, args...); !strings.Contains(said, "403") {
						t.Errorf("git %q says %s", args, said)
					}
				}
				if pushed := git(t, demo, "for-each-ref", "refs/heads/pushed"); pushed != "" {
					t.Errorf("the branch was pushed: %s", pushed)
				}

				// The key that the file holds is no token, at either gate.
				for _, h.address = range []string{ours, theirs} {
					for _, user := range []string{store.Token(token).Key(), sha256Of(token), "sha256"} {
						for _, service := range []string{"git-upload-pack", "git-receive-pack"} {
							answer, _ := h.request(t, "GET", "/demo.git/info/refs?service="+service, user, "")
							if answer.StatusCode != http.StatusForbidden {
								t.Errorf("%s as the user %s: %s", service, user, answer.Status)
							}
						}
					}
				}
			})
		}
	}
}

// A program that writes the token file does not change the entries that it knows, and drops the
// others: a limited token dies of that, at both gates.
func TestOtherProgramsHandleLimitedAndHashedTokens(t *testing.T) {
	for i, version := range versions {
		for name, kind := range kinds {
			t.Run(version+"/"+name, func(t *testing.T) {
				t.Parallel()
				h := open(t, gate.Settings{})
				h.demo(t, "demo", 1)
				token := h.containerToken(t, kind.flags, nil)

				entries := func() map[string]json.RawMessage {
					text, err := readFile(h.tokens.Path)
					must(t, err)
					entries := map[string]json.RawMessage{}
					must(t, json.Unmarshal([]byte(text), &entries))
					return entries
				}
				works := func() bool {
					answer, _ := h.request(t, "GET", "/demo.git"+refs, token, "")
					return answer.StatusCode == http.StatusOK
				}
				before := entries()

				// Its revoke writes only if it finds something.
				run(t, retired(t, "revoke", h.tokens.Path, version, "demo", "7"))
				if found := !works(); found != kind.keep[i] {
					t.Errorf("its revoke finds the token: %v", found)
				}
				if kind.keep[i] {
					must(t, replaceFile(h.tokens.Path, encoded(t, before)))
				} else if diff := cmp.Diff(before, entries()); diff != "" {
					t.Errorf("its revoke changes (-before +after):\n%s", diff)
				}

				added := run(t, retired(t, "create", h.tokens.Path, version, "other", "1"))
				after := entries()
				if len(after[added]) == 0 {
					t.Errorf("its new token is not in the file: %v", after)
				}
				delete(after, added)
				if !kind.keep[i] {
					clear(before)
				}
				if diff := cmp.Diff(meaning(t, before), meaning(t, after)); diff != "" {
					t.Errorf("its next write leaves (-want +got):\n%s", diff)
				}
				if works() != kind.keep[i] {
					t.Errorf("then the token works: %v", works())
				}
			})
		}
	}
}

func encoded(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.MarshalIndent(value, "", "  ")
	must(t, err)
	return text
}

func meaning(t *testing.T, entries map[string]json.RawMessage) (meaning map[string]any) {
	t.Helper()
	must(t, json.Unmarshal(encoded(t, entries), &meaning))
	return meaning
}
