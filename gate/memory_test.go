package gate_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok-gate-hook/gate"
	"terok-gate-hook/internal/testenv"
)

// openNarrow opens a gate whose git has so much memory, in KiB, and no more.
func openNarrow(t *testing.T, most int) *house {
	t.Helper()
	bin, path := memory(t), os.Getenv("PATH")
	script := fmt.Sprintf("#!/bin/sh\nulimit -v %d\nexec %s \"$@\"\n", most, testenv.Tool(t, "git"))
	must(t, os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755))
	t.Setenv("PATH", bin+":"+path)
	h := open(t, gate.Settings{})
	t.Setenv("PATH", path)
	return h
}

// zeroes are a blob of so many MiB, but for its first byte.
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
	const size, copies = 0xffffff, 60 // 1 GiB
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

	command := fmt.Sprintf("%040d %x refs/tags/base\x00report-status", 0, id)
	body := fmt.Sprintf("%04x%s0000%s", len(command)+4, command, pack.String())
	answer, text := h.request(t, http.MethodPost, "/demo.git/git-receive-pack", token, body, "Content-Type: application/x-git-receive-pack-request")
	if answer.StatusCode != http.StatusOK || !strings.Contains(text, "ng refs/tags/base") {
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
