package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"terok-gate-hook/internal/testenv"
	"terok-gate-hook/store"
)

// account is a writer's record of its changes.
type account struct {
	Issued  map[string]json.RawMessage `json:"issued"`
	Revoked []string                   `json:"revoked"`
}

// hammerHelper changes the token file args[0] in every way, args[2] times, as the
// writer args[1], and prints its account.
func hammerHelper(args []string) error {
	f, name := store.File{Path: args[0], LockTimeout: time.Minute}, args[1]
	operations, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(name[len("ours-"):], 10, 64)
	if err != nil {
		return err
	}
	pick := rand.New(rand.NewPCG(seed, seed))
	process, err := store.ProcessOf(os.Getpid())
	if err != nil {
		return err
	}

	did := account{Issued: map[string]json.RawMessage{}}
	issued := func(token store.Token, project, task, container string, also store.Also) error {
		entry := map[string]any{"project": project, "task": task, "container": container}
		if also != nil {
			entry["also"] = also
		}
		value, err := json.Marshal(entry)
		did.Issued[string(token)] = value
		return err
	}

	gone := func(entries []store.Entry) {
		for _, e := range entries {
			did.Revoked = append(did.Revoked, string(e.Token))
		}
	}

	for i := range operations {
		container := fmt.Sprintf("%s-%d", name, pick.IntN(4))
		task := fmt.Sprintf("%s-%d", name, pick.IntN(3))
		var revoked []store.Entry
		var err error

		switch pick.IntN(10) {
		case 0, 1, 2, 3, 4: // a container starts; some tokens are tied to this process, and will be orphans
			e := store.Entry{Grant: store.Grant{Project: "demo", Task: task}, Container: container}
			if i%2 == 0 {
				e.Process = process
			}
			if i%3 == 0 {
				e.Also = store.Also{"lib": store.AccessRead, "tools": store.AccessWrite}
			}

			if e.Token, err = store.NewToken(); err != nil {
				return err
			}

			if revoked, err = f.Issue(e); err == nil {
				err = issued(e.Token, "demo", task, container, e.Also)
			}
		case 5, 6:
			revoked, _, err = f.RevokeContainer(container)
		case 7: // a person creates a token that belongs to no container
			e := store.Entry{Grant: store.Grant{Project: "demo", Task: task}}
			if e.Token, err = store.NewToken(); err != nil {
				return err
			}
			if revoked, err = f.Issue(e); err == nil {
				err = issued(e.Token, "demo", task, "", nil)
			}
		case 8:
			revoked, err = f.RevokeTokenForTask("demo", task)
		case 9: // any token, of any writer
			var entries []store.Entry
			if entries, err = f.Entries(); err == nil && len(entries) > 0 {
				token := entries[pick.IntN(len(entries))].Token
				revoked, err = f.Revoke(func(e store.Entry) bool { return e.Token == token })
			}
		}

		if err != nil {
			return fmt.Errorf("operation %d: %w", i+1, err)
		}
		gone(revoked)
	}
	return json.NewEncoder(os.Stdout).Encode(did)
}

func python(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "python3"), append([]string{filepath.Join("testdata", "writer.py")}, args...)...)
	cmd.Stderr = new(bytes.Buffer)
	return cmd
}

func TestManyGoAndPythonWritersAccountForEveryToken(t *testing.T) {
	testenv.Need(t, "python3")
	const ours, pythons, operations = 6, 2, 200
	f := store.File{Path: filepath.Join(memory(t), "tokens.json")}
	const stranger = `{"of": [null], "n": 123456789012345678901234567890}`
	write(t, f.Path, `{"stranger": `+stranger+`}`)

	writers := map[string]*exec.Cmd{}
	for i := range ours {
		name := fmt.Sprintf("ours-%d", i)
		writers[name] = helper(t, "hammer", f.Path, name, fmt.Sprint(operations))
	}
	for i := range pythons {
		name := fmt.Sprintf("python-%d", i)
		writers[name] = python(t, "write", f.Path, name, fmt.Sprint(operations))
	}

	watcher := python(t, "watch", f.Path)
	var watched bytes.Buffer
	watcher.Stdout = &watched
	endWatch := start(t, watcher)

	accounts := make(chan account)
	for name, cmd := range writers {
		go func() {
			var did account
			out, err := cmd.Output()
			if err == nil {
				err = json.Unmarshal(out, &did)
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, cmd.Stderr)
			}
			accounts <- did
		}()
	}

	stop := make(chan struct{})
	var readers sync.WaitGroup
	versions := 0
	readers.Go(func() { // reads all the time, without a lock
		for last := -1; ; {
			entries, err := f.Entries()
			if err != nil {
				t.Errorf("a reader: %v", err)
				return
			}

			if len(entries) != last {
				last = len(entries)
				versions++
			}

			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})

	want := map[string]string{"stranger": stranger}
	revoked := map[string]int{}
	for range writers {
		did := <-accounts
		for token, entry := range did.Issued {
			if want[token] != "" {
				t.Errorf("token %s was issued twice", store.Token(token))
			}
			want[token] = string(entry)
		}
		for _, token := range did.Revoked {
			revoked[token]++
		}
	}
	close(stop)
	readers.Wait()
	endWatch()

	total := len(want) - 1
	for token, times := range revoked {
		if want[token] == "" {
			t.Errorf("token %q was revoked and never issued", token)
		}
		if times != 1 {
			t.Errorf("token %s was revoked %d times", store.Token(token), times)
		}
		delete(want, token)
	}

	got := map[string]string{}
	var left map[string]json.RawMessage
	if err := json.Unmarshal([]byte(contentOf(t, f.Path)), &left); err != nil {
		t.Fatal(err)
	}
	for token, entry := range left {
		got[token] = string(entry)
	}
	if diff := cmp.Diff(meaning(t, want), meaning(t, got)); diff != "" {
		t.Errorf("the entries left (-accounted for +in the file):\n%s", diff)
	}
	wantNames(t, f, "tokens.json", "tokens.json.lock")

	var saw struct{ Reads, Versions int }
	if err := json.Unmarshal(watched.Bytes(), &saw); err != nil {
		t.Fatal(err)
	}
	if versions < 10 || saw.Versions < 10 {
		t.Errorf("the readers saw only %d and %d versions", versions, saw.Versions)
	}
	t.Logf("%d operations of %d processes; %d tokens issued, %d revoked, %d left; %d versions seen by a reader of ours, %d by Python",
		(ours+pythons)*operations, ours+pythons, total, len(revoked), len(got), versions, saw.Versions)
}

// meaning decodes entries, and keeps numbers as they are written. It leaves out the keys of our
// entries that the accounts do not have.
func meaning(t *testing.T, entries map[string]string) map[string]any {
	t.Helper()
	decoded := map[string]any{}
	for token, entry := range entries {
		dec := json.NewDecoder(bytes.NewReader([]byte(entry)))
		dec.UseNumber()
		var value map[string]any
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
		delete(value, "created")
		delete(value, "process")
		delete(value, "scope")
		if value["container"] == "" {
			delete(value, "container")
		}
		decoded[string(token)] = value
	}
	return decoded
}
