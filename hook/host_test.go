package hook

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// trial returns settings for a hook that is tried by hand.
func trial(t *testing.T) Settings {
	dir := t.TempDir()
	return Settings{Tokens: store.File{Path: filepath.Join(dir, "gate/tokens.json")}, EnvDir: filepath.Join(dir, "env")}
}

func sample(t *testing.T, name string) *os.File {
	t.Helper()
	file, err := os.Open("../testdata/" + name)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func TestByHandTheTokenIsInAFileOnTheHost(t *testing.T) {
	for _, runtime := range []string{"crun", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			h := trial(t)
			out, err := h.Prestart(sample(t, runtime+"/prestart.json"))
			must(t, err)
			if want := filepath.Join(h.EnvDir, out.Container+".env"); out.EnvFile != want {
				t.Errorf("the env file is %s, not %s", out.EnvFile, want)
			}

			info, err := os.Lstat(out.EnvFile)
			must(t, err)
			if info.Mode() != 0o600 {
				t.Errorf("the env file's mode is %v", info.Mode())
			}

			content, err := os.ReadFile(out.EnvFile)
			must(t, err)
			if want := "TEROK_GATE_TOKEN=" + string(out.Token) + "\nTEROK_PROJECT=demo\nTEROK_TASK=1\n"; string(content) != want {
				t.Error("the env file is not token, project and task")
			}

			entries, err := h.Tokens.Entries()
			must(t, err)
			if len(entries) != 1 || entries[0].Token != out.Token || entries[0].Process != nil {
				t.Errorf("the token file says %+v", entries)
			}

			for _, time := range []string{"the first time", "and again"} {
				stop, err := h.Poststop(sample(t, runtime+"/poststop.json"))
				must(t, err)
				if (len(stop.Revoked) == 1) != (time == "the first time") {
					t.Errorf("%s poststop revoked %v", time, stop.Revoked)
				}
				if _, err := os.Lstat(out.EnvFile); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s poststop left the env file: %v", time, err)
				}
			}
		})
	}
}

func TestRunsByHandAtTheSameTimeDoNotGetInEachOthersWay(t *testing.T) {
	h := trial(t)
	var runs sync.WaitGroup
	for range 50 {
		runs.Go(func() {
			if _, err := h.injectOnHost("c1", []byte("content")); err != nil {
				t.Error(err)
			}
		})
	}
	runs.Wait()
}

func TestASecondStartReplacesTokenAndEnvFile(t *testing.T) {
	h := trial(t)
	first, err := h.Prestart(sample(t, "crun/prestart.json"))
	must(t, err)
	second, err := h.Prestart(sample(t, "crun/prestart.json"))
	must(t, err)
	if second.Token == first.Token || len(second.Revoked) != 1 || second.Revoked[0].Token != first.Token {
		t.Errorf("the second start revoked %v", second.Revoked)
	}
	content, err := os.ReadFile(second.EnvFile)
	must(t, err)
	if !strings.Contains(string(content), string(second.Token)) {
		t.Error("the env file holds another token than the second")
	}
}

func TestALinkInTheEnvFilesPlaceIsReplacedAndNotFollowed(t *testing.T) {
	h := trial(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("untouched\n"), 0o644))
	must(t, os.MkdirAll(h.EnvDir, 0o700))
	path := filepath.Join(h.EnvDir, someID+".env")
	must(t, os.Symlink(outside, path))
	before := tree(t, filepath.Dir(outside))

	_, err := h.Prestart(sample(t, "crun/prestart.json"))
	must(t, err)
	sameTree(t, before, tree(t, filepath.Dir(outside)))
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the env file is %v, %v", info.Mode(), err)
	}
}

func TestADirectoryInTheEnvFilesPlaceIsAnErrorAndIssuesNothing(t *testing.T) {
	h := trial(t)
	path := filepath.Join(h.EnvDir, someID+".env")
	must(t, os.MkdirAll(filepath.Join(path, "full"), 0o700))
	_, err := h.Prestart(sample(t, "crun/prestart.json"))
	if err == nil || !strings.Contains(Detail(err), path) {
		t.Errorf("the error does not name the path: %v", err)
	}
	if _, err := os.Lstat(h.Tokens.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a token file: %v", err)
	}
}

// The hook writes the env file first and issues the token last. If it cannot issue the token, it
// leaves no env file either.
func TestIfTheTokenCannotBeIssuedTheEnvFileIsRemoved(t *testing.T) {
	h := trial(t)
	must(t, os.MkdirAll(filepath.Dir(h.Tokens.Path), 0o700))
	must(t, os.WriteFile(h.Tokens.Path, []byte("[]\n"), 0o600))
	out, err := h.Prestart(sample(t, "crun/prestart.json"))
	if err == nil || out.Token != "" {
		t.Errorf("a token was issued into a file that is no JSON object: %v", err)
	}
	if files, err := os.ReadDir(h.EnvDir); err != nil || len(files) != 0 {
		t.Errorf("the env dir holds %v, %v", files, err)
	}
}

func TestWhereEnvFilesAre(t *testing.T) {
	own, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(own, link))
	for _, row := range []struct{ name, envDir, runtimeDir, root, user string }{
		{"as told", "/a", own, "/a", "/a"},
		{"in the user's runtime directory", "", own, own + "/terok", own + "/terok"},
		{"in a runtime directory that does not exist yet", "", own + "/run", own + "/run/terok", own + "/run/terok"},
		{"with a link to a runtime directory", "", link, "/run/terok", link + "/terok"},
		{"without a runtime directory", "", "", "/run/terok", ""},
		{"with a relative runtime directory", "", "b", "/run/terok", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", row.runtimeDir)
			want := row.user
			if os.Geteuid() == 0 {
				want = row.root
			}
			dir, err := Settings{EnvDir: row.envDir}.hostDir()
			if dir != want || (err == nil) != (want != "") {
				t.Errorf("%q, %v, not %q", dir, err, want)
			}
		})
	}
}

// After su, XDG_RUNTIME_DIR still names the other user's directory, where that user can put a link.
func TestRootDoesNotFollowAUsersRuntimeDirectory(t *testing.T) {
	testenv.NeedRoot(t)
	const user = 4711
	users, roots := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(filepath.Join(users, "run"), 0o700))
	must(t, os.Chown(users, user, user))
	shared := filepath.Join(roots, "shared")
	must(t, os.Mkdir(shared, 0o700))
	must(t, os.Chmod(shared, 0o777))
	sticky := filepath.Join(roots, "sticky")
	must(t, os.Mkdir(sticky, 0o700))
	must(t, os.Chmod(sticky, 0o777|fs.ModeSticky))
	for name, dir := range map[string]string{
		"one in which everybody can make a directory": sticky,
		"one that everybody can make":                 sticky + "/run",
		"a user's":                                    users,
		"root's in a user's":                          users + "/run",
		"one that a user can make":                    users + "/new",
		"one that everybody can replace":              shared + "/run",
	} {
		t.Setenv("XDG_RUNTIME_DIR", dir)
		if got, err := (Settings{}).hostDir(); got != "/run/terok" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestAContainerWithoutTheAnnotationsIsLeftAlone(t *testing.T) {
	h := trial(t)
	for _, state := range []string{`{"id": "a"}`, `{"id": "a", "pid": 1, "annotations": {"b": "c"}}`} {
		out, err := h.Prestart(strings.NewReader(state))
		if err != nil || out.Token != "" || out.EnvFile != "" {
			t.Errorf("%s: %+v, %v", state, out, err)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(h.EnvDir)); err != nil || len(files) != 0 {
		t.Errorf("there are %v, %v", files, err)
	}
}

func TestPoststopRevokesOnlyItsOwnContainersTokens(t *testing.T) {
	h := trial(t)
	mine, err := h.Prestart(strings.NewReader(`{"id": "mine", "annotations": {"terok.project": "demo", "terok.task": "1"}}`))
	must(t, err)
	other, err := h.Prestart(strings.NewReader(`{"id": "other", "annotations": {"terok.project": "demo", "terok.task": "1"}}`))
	must(t, err)
	operators, err := h.Tokens.CreateToken("demo", "1")
	must(t, err)

	// Annotations play no part.
	stop, err := h.Poststop(strings.NewReader(`{"id": "mine"}`))
	must(t, err)
	if len(stop.Revoked) != 1 || stop.Revoked[0].Token != mine.Token {
		t.Errorf("revoked %v", stop.Revoked)
	}

	entries, err := h.Tokens.Entries()
	must(t, err)
	left := map[store.Token]bool{}
	for _, e := range entries {
		left[e.Token] = true
	}
	if len(left) != 2 || !left[other.Token] || !left[operators] {
		t.Errorf("left are %v", entries)
	}

	if _, err := os.Lstat(other.EnvFile); err != nil {
		t.Errorf("the other container's env file: %v", err)
	}
}
