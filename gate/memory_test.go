package gate_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

// openNarrow opens a gate whose git has at most this much memory, in KiB.
func openNarrow(t *testing.T, most int) *harness {
	t.Helper()
	bin, path := memory(t), os.Getenv("PATH")
	script := fmt.Sprintf("#!/bin/sh\nulimit -v %d\nexec %s \"$@\"\n", most, testenv.Tool(t, "git"))
	must(t, os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755))
	t.Setenv("PATH", bin+":"+path)
	h := open(t, gate.Settings{})
	t.Setenv("PATH", path)
	return h
}

// zeroes is a blob of so many MiB. All its bytes but the first are zero.
func zeroes(first byte, mib int) io.Reader {
	return io.MultiReader(bytes.NewReader([]byte{first}), io.LimitReader(zero{}, int64(mib)<<20-1))
}

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestAFetchOfWhatPacksWellTakesLittleMemory(t *testing.T) {
	h := openNarrow(t, 512<<10)
	path := h.bare(t, "demo")
	var tree strings.Builder
	for i := range 6 {
		hash := command(path, "-c", "core.compression=1", "hash-object", "-w", "--stdin")
		hash.Stdin = zeroes('a'+byte(i), 100)
		id, err := hash.Output()
		must(t, err)
		fmt.Fprintf(&tree, "100644 blob %s\tfile-%d\n", strings.TrimSpace(string(id)), i)
	}
	tip := git(t, path, "commit-tree", "-m", "much", feed(t, path, tree.String(), "mktree"))
	git(t, path, "update-ref", "refs/heads/main", tip)
	git(t, h.dir, "clone", "--quiet", "--bare", h.url(h.issue(t, "demo"), "demo"), "copy")
}

func TestAPushThatUnpacksTooLargeIsRefused(t *testing.T) {
	h := open(t, gate.Settings{})
	path := h.bare(t, "demo")
	token := h.issue(t, "demo")
	const size, copies = 0xffffff, 70 // more than 1 GiB
	var pack bytes.Buffer
	object := func(kind byte, content []byte, base ...byte) {
		pack.Write(packedHeader(kind, len(content)))
		pack.Write(base)
		z := zlib.NewWriter(&pack)
		_, _ = z.Write(content)
		z.Close()
	}

	const blob, refDelta = 3, 7
	pack.WriteString("PACK\x00\x00\x00\x02\x00\x00\x00\x02")
	base := make([]byte, size)
	object(blob, base)
	copyAll := []byte{0x80 | 0x70, 0xff, 0xff, 0xff}
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, size), size*copies)
	id := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", size), base...))
	object(refDelta, append(delta, bytes.Repeat(copyAll, copies)...), id[:]...)

	sum := sha1.Sum(pack.Bytes())
	pack.Write(sum[:])

	command := fmt.Sprintf("%040d %x refs/tags/base\x00report-status side-band-64k", 0, id)
	body := fmt.Sprintf("%04x%s0000%s", len(command)+4, command, pack.String())
	answer, text := h.request(t, http.MethodPost, "/demo.git/git-receive-pack", token, body, "Content-Type: application/x-git-receive-pack-request")
	if answer.StatusCode != http.StatusOK || !strings.Contains(text, "ng refs/tags/base") || !strings.Contains(text, "--git-memory") {
		t.Errorf("%d: %q", answer.StatusCode, text)
	}
	if refs := git(t, path, "for-each-ref"); refs != "" {
		t.Errorf("moved: %s", refs)
	}
}

// packedHeader begins an object of a pack (gitformat-pack(5)).
func packedHeader(kind byte, size int) (header []byte) {
	header = []byte{kind<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		header[len(header)-1] |= 0x80
		header = append(header, byte(size&0x7f))
	}
	return header
}

func TestAPushThatNamesTooManyRefsIsRefused(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 1)
	var body strings.Builder
	for i := 0; body.Len() < 5<<20; i++ {
		command := fmt.Sprintf("%040d %040d refs/tags/%d", 0, 1, i)
		fmt.Fprintf(&body, "%04x%s", len(command)+4, command)
	}
	answer, text := h.request(t, http.MethodPost, "/demo.git/git-receive-pack", h.issue(t, "demo"), body.String()+"0000", "Content-Type: application/x-git-receive-pack-request")
	if answer.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%d: %q", answer.StatusCode, text)
	}
}

// Until a push has arrived, git keeps in memory every tree that came as a delta of another tree.
func TestAPushThatTakesTooMuchMemoryIsRefusedAndNamesTheFlag(t *testing.T) {
	log := logged(t)
	h := open(t, gate.Settings{GitMemory: 200 << 20})
	path := h.bare(t, "demo")
	const size, copies, deltas = 0xffffff, 4, 8 // 64 MiB each
	const tree, refDelta = 2, 7
	var pack bytes.Buffer
	object := func(kind byte, content []byte, base ...byte) {
		pack.Write(packedHeader(kind, len(content)))
		pack.Write(base)
		z := zlib.NewWriter(&pack)
		_, _ = z.Write(content)
		z.Close()
	}

	pack.Write([]byte{'P', 'A', 'C', 'K', 0, 0, 0, 2, 0, 0, 0, deltas + 1})
	base := make([]byte, size)
	object(tree, base)
	id := sha1.Sum(append(fmt.Appendf(nil, "tree %d\x00", size), base...))
	copyAll := []byte{0x80 | 0x70, 0xff, 0xff, 0xff}
	for i := range byte(deltas) {
		delta := binary.AppendUvarint(binary.AppendUvarint(nil, size), size*copies+1)
		object(refDelta, append(append(delta, 1, i), bytes.Repeat(copyAll, copies)...), id[:]...)
	}

	sum := sha1.Sum(pack.Bytes())
	pack.Write(sum[:])

	command := fmt.Sprintf("%040d %x refs/tags/base\x00report-status side-band-64k", 0, id)
	body := pkt(command) + "0000" + pack.String()
	answer, text := h.request(t, http.MethodPost, "/demo.git/git-receive-pack", h.issue(t, "demo"), body, receiveRequest)
	if answer.StatusCode != http.StatusOK || !strings.Contains(text, "ng refs/tags/base") || !strings.Contains(text, "--git-memory") {
		t.Errorf("%d: %q", answer.StatusCode, text)
	}
	if refs := git(t, path, "for-each-ref"); refs != "" {
		t.Errorf("moved: %s", refs)
	}
	if !strings.Contains(log.String(), "--git-memory") {
		t.Errorf("the log has %s", log)
	}
}

func TestFiltersThatGitClientsUseAreServedAndOthersAreNot(t *testing.T) {
	h := open(t, gate.Settings{})
	h.demo(t, "demo", 3)
	url := h.url(h.issue(t, "demo"), "demo")
	for i, row := range []struct {
		filter string
		served bool
	}{
		{"blob:none", true}, {"blob:limit=1k", true}, {"tree:0", true}, {"object:type=commit", true},
		{"combine:blob:none+tree:3", true},
		{"combine:tree:9+tree:8+tree:7+tree:6", true},
		{"combine:tree:9+tree:8+tree:7+tree:6+tree:5", false},
		{"combine:combine:tree:9%2btree:8%2btree:7+tree:6", false},
		{"combine:" + strings.Repeat("tree:9+", 5000) + "tree:9", false},
		{"sparse:oid=main:file-0", false},
	} {
		for _, version := range []string{"0", "2"} {
			clone := command(h.dir, "-c", "protocol.version="+version, "clone", "--quiet", "--bare", "--filter", row.filter, url, fmt.Sprintf("clone-%d-%s", i, version))
			if out, err := clone.CombinedOutput(); (err == nil) != row.served {
				t.Errorf("%.60s with protocol %s: %v: %.300s", row.filter, version, err, out)
			}
		}
	}
}

// By default, git syncs neither loose objects nor refs.
func TestObjectsAndRefsAreSyncedBeforeAPushHasSucceeded(t *testing.T) {
	traces := filepath.Join(memory(t), "traces")
	h, _ := openOver(t, "export GIT_TRACE2_EVENT="+traces)
	h.demo(t, "demo", 1)
	work := filepath.Join(h.dir, "work")
	git(t, h.dir, "clone", "--quiet", h.url(h.issue(t, "demo"), "demo"), work)
	must(t, os.RemoveAll(traces))

	git(t, work, "commit", "--quiet", "--allow-empty", "-m", "small")
	git(t, work, "push", "--quiet", "origin", "HEAD:refs/heads/small")

	text, err := readFile(traces)
	must(t, err)
	synced := 0
	for line := range strings.Lines(text) {
		var event struct{ Name, Key, Value, Count json.RawMessage }
		must(t, json.Unmarshal([]byte(line), &event))
		number := event.Value // up to git 2.46
		if string(event.Name) == `"hardware-flush"` {
			number = event.Count
		} else if string(event.Key) != `"fsync/hardware-flush"` {
			continue
		}

		var n int
		must(t, json.Unmarshal([]byte(strings.Trim(string(number), `"`)), &n))
		synced += n
	}

	if synced < 2 {
		t.Errorf("of a commit and a ref, %d are synced:\n%s", synced, text)
	}
}

func TestRefusingPushesOfManyRefsTakesLittleMemory(t *testing.T) {
	h := open(t, gate.Settings{}) // for its directory
	stopNow(h.Gate)
	h.demo(t, "demo", 1)

	var patterns []string
	for i := range 40 {
		patterns = append(patterns, fmt.Sprintf("%q", fmt.Sprintf("refs/heads/agent-%d-%s/**", i, strings.Repeat("x", 100))))
	}
	h.put(t, limitedToken, `{"limited": {"project": "demo", "access": "write", "push": [[`+strings.Join(patterns, ", ")+`]]}}`)

	var body strings.Builder
	for i := range 38_000 {
		capabilities := ""
		if i == 0 {
			capabilities = "\x00report-status side-band-64k"
		}
		body.WriteString(pkt(fmt.Sprintf("%040d %040d refs/heads/x%d%s", 0, 1, i, capabilities)))
	}
	body.WriteString("0000")

	own := startGate(t, h)
	var pushes sync.WaitGroup
	for range 8 {
		pushes.Go(func() {
			answer, text := h.request(t, http.MethodPost, "/demo.git/git-receive-pack", limitedToken, body.String(), receiveRequest)
			if answer.StatusCode != http.StatusOK || strings.Count(text, "the token may push to") != 11 || !strings.Contains(text, "38000 refs are refused") {
				t.Errorf("%s: %.300q", answer.Status, text)
			}
		})
	}
	pushes.Wait()

	status, err := readFile(fmt.Sprintf("/proc/%d/status", own.Process.Pid))
	must(t, err)
	var most int
	for line := range strings.Lines(status) {
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &most)
	}

	if most == 0 || most > 100<<10 {
		t.Errorf("the gate takes %d KiB", most)
	}
	t.Logf("the gate takes %d KiB", most)
}
