package hook

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/store"
)

// FuzzState checks that for any standard input an error leaves no token and no env file, and
// success leaves at most one of each, in their directories.
func FuzzState(f *testing.F) {
	for _, pattern := range []string{"../testdata/*/prestart*.json", "../testdata/*/poststop.json"} {
		samples, err := filepath.Glob(pattern)
		if err != nil || len(samples) == 0 {
			f.Fatalf("no samples %s: %v", pattern, err)
		}
		for _, sample := range samples {
			content, err := os.ReadFile(sample)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(content)
		}
	}

	f.Add([]byte(`{"id":"../x","annotations":{"terok.project":"p","terok.task":"1"}}`))
	f.Add([]byte(`{"id":"x","pid":-1,"bundle":"/","annotations":{"terok.project":"p","terok.task":"1"}}`))
	f.Add([]byte(`{"id":"x","pid":1,"annotations":{"terok.project":"p","terok.task":"1"}}`))
	f.Add([]byte(`{"id":"x","annotations":{"terok.project":"*","terok.task":"1"}}`))

	f.Fuzz(func(t *testing.T, state []byte) {
		dir := t.TempDir()
		h := Settings{Tokens: store.File{Path: filepath.Join(dir, "gate", "tokens.json")}, EnvDir: filepath.Join(dir, "env")}
		out, err := h.Prestart(bytes.NewReader(state))

		entries, readErr := h.Tokens.Entries()
		if readErr != nil {
			t.Fatal(readErr)
		}
		envFiles, globErr := filepath.Glob(filepath.Join(h.EnvDir, "*"))
		if globErr != nil {
			t.Fatal(globErr)
		}

		want := 0
		if err == nil && out.Token != "" {
			want = 1
		}
		if len(entries) != want || len(envFiles) != want {
			t.Fatalf("%q: %d tokens and env files %q, want %d of each (%v)", state, len(entries), envFiles, want, err)
		}
		if above, _ := os.ReadDir(dir); len(above) > 2 {
			t.Fatalf("%q left %v", state, above)
		}

		if want == 1 && entries[0].Process.Life() == store.Alive {
			return // the pid of a living process: poststop spares its token
		}
		if _, err := h.Poststop(bytes.NewReader(state)); err == nil {
			if entries, _ := h.Tokens.Entries(); len(entries) != 0 {
				t.Fatalf("%q: poststop left a token", state)
			}
			if envFiles, _ := filepath.Glob(filepath.Join(h.EnvDir, "*")); len(envFiles) != 0 {
				t.Fatalf("%q: poststop left %v", state, envFiles)
			}
		} else if want == 1 {
			t.Fatalf("prestart took %q, poststop did not: %v", state, err)
		}
	})
}

// FuzzConfiguration checks that a configuration that is accepted has all that an injection
// uses.
func FuzzConfiguration(f *testing.F) {
	samples, err := filepath.Glob("../testdata/*/bundle/config.json")
	if err != nil || len(samples) == 0 {
		f.Fatalf("no sample bundles: %v", err)
	}

	for _, sample := range samples {
		content, err := os.ReadFile(sample)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}

	f.Add([]byte(`{"process":{"user":{"uid":1}},"root":{"path":"rootfs"}}`))
	f.Add([]byte(`{"process":{},"root":{"path":"/"},"linux":{"mountLabel":"x"}}`))
	f.Add([]byte(`{"process":{"env":["GIT_CONFIG_PARAMETERS='a.b'='c'\\''","GIT_CONFIG_SYSTEM"]},"root":{"path":"../.."}}`))

	f.Fuzz(func(t *testing.T, content []byte) {
		bundle := t.TempDir()
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}

		config, err := readConfiguration(bundle)
		if err != nil {
			if !strings.Contains(Detail(err), bundle) {
				t.Fatalf("%q: the error names no bundle: %v", content, err)
			}
			return
		}

		if config.Process == nil || config.Root == nil || !filepath.IsAbs(config.Root.Path) {
			t.Fatalf("%q: taken as %+v", content, config)
		}
		if p, err := (Settings{GateURL: gate}).gitPointers(config.Process.Env); err == nil && !strings.HasSuffix(p.parameters, p.include) {
			t.Fatalf("%q: git's parameters are %q", content, p.parameters)
		}
	})
}

// FuzzAnnotations checks that values that are admitted need no quoting anywhere, and that
// others are refused with an error of one line.
func FuzzAnnotations(f *testing.F) {
	for _, name := range []string{"demo", "a.b_c-D9", "", "*", "..", "a/b", "a b", "a\nb", "$(id)", "é", "-x", ".x", "a\x00", strings.Repeat("a", 129)} {
		f.Add(name, "1", "0400")
		f.Add("demo", name, "0444")
	}

	value := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	line := regexp.MustCompile(`^[A-Z_]+=[A-Za-z0-9][A-Za-z0-9._-]*$`)

	f.Fuzz(func(t *testing.T, project, task, mode string) {
		annotations := map[string]string{ProjectAnnotation: project, TaskAnnotation: task, EnvModeAnnotation: mode}
		want, asked, err := Settings{}.request(annotations)
		if !asked {
			t.Fatal("both annotations are there, and not asked for")
		}
		if err == nil && want.mode != 0o400 && want.mode != 0o440 && want.mode != 0o444 {
			t.Fatalf("mode %q taken as %v", mode, want.mode)
		}

		_, modeErr := parseEnvMode(mode)
		if admissible := value.MatchString(project) && value.MatchString(task) && modeErr == nil; admissible != (err == nil) {
			t.Fatalf("project %q, task %q, mode %q: %v", project, task, mode, err)
		}

		if err != nil {
			if strings.ContainsAny(Detail(err), "\n\r\x00") {
				t.Fatalf("an error of many lines: %q", err)
			}
			return
		}

		for l := range strings.Lines(string(envFile(Settings{}.variables(want, "terok-g-0", nil)))) {
			if !line.MatchString(strings.TrimSuffix(l, "\n")) {
				t.Fatalf("gate.env has the line %q", l)
			}
		}
	})
}

// FuzzMountPoint checks that openMountPoint, in a tree of directories, files and symbolic links
// that the input describes, stays inside the tree's root and changes nothing outside it.
func FuzzMountPoint(f *testing.F) {
	// Each line of a tree is a path, a space, and what is there: "/" for a directory, "f" for a
	// file, else the target of a link.
	for _, tree := range []string{
		"", "run /", "run /\nrun/terok /", "run f", "run /\nrun/terok f",
		"run ../outside", "run /outside", "run ../../../../../../etc", "run outside/../..\noutside /",
		"run var/run\nvar /\nvar/run ../run", "run run", "run /\nrun/terok ../../outside/new",
		"run /\nrun/terok terok/gate.env", "run /proc/self/cwd", "run .", "run ..\nterok /", "run gone", "run b\nb /c\nc /\nc/terok ../..",
	} {
		f.Add(tree)
	}

	f.Fuzz(func(t *testing.T, tree string) {
		top := t.TempDir()
		root, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
		for _, dir := range []string{root, outside} {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(outside, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}

		plant(root, tree)
		before := outsideOf(t, top)
		point, err := openMountPoint(root, idMaps{}, mountsKnown{})
		if diff := cmp.Diff(before, outsideOf(t, top)); diff != "" {
			t.Fatalf("changed outside the root (-before +after):\n%s", diff)
		}

		if err != nil {
			return
		}
		defer point.Close()

		where, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", point.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if where != root && !strings.HasPrefix(where, root+"/") {
			t.Fatalf("%s is outside %s", where, root)
		}
	})
}

// plant makes what it can of the tree, and passes over a line that makes no sense. It makes
// nothing outside dir: os.Root sees to that.
func plant(dir, tree string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	for i, line := range strings.Split(tree, "\n") {
		path, what, ok := strings.Cut(line, " ")
		switch {
		case i > 20 || !ok:
		case what == "/":
			_ = root.Mkdir(path, 0o755)
		case what == "f":
			_ = root.WriteFile(path, nil, 0o644)
		default:
			_ = root.Symlink(what, path)
		}
	}
}

// outsideOf lists what lies beside the root file system, with modes and times of modification.
func outsideOf(t *testing.T, top string) []string {
	t.Helper()
	var list []string
	for _, pattern := range []string{"*", "outside/*", "outside/*/*"} {
		paths, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Name() == "root" && info.IsDir() {
				list = append(list, path) // its own times may change
				continue
			}
			list = append(list, path+" "+info.Mode().String()+" "+info.ModTime().String())
		}
	}
	return list
}
