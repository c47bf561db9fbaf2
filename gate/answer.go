// Copies git's answers to the client, without paths of this machine. If git had too little memory,
// the gate adds a message that names the limit.

package gate

import (
	"bufio"
	"bytes"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// answerBuffers is a pool of readers. Each has a buffer that holds any packet of git's, so that a
// packet is written in one piece.
var answerBuffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 128<<10) }}

// flushing is git's output, which is copied to the answer. Before each read, which may wait for git,
// it sends the client what was written. If that fails, so does the read.
type flushing struct {
	out    io.Reader
	answer *outgoing
	piece  bool // the last read got a small piece of a pack
}

// Read lets other processes run first if git is sending a pack in small pieces. If this program read
// each piece as soon as it comes, and then waited for the next, a large clone would take twice as
// much of this program's processor time. While git is ahead of this program, Read does not let
// others run: on a busy machine, each time would cost a time slice.
func (f *flushing) Read(p []byte) (n int, err error) {
	if err := f.answer.FlushError(); err != nil {
		return 0, err
	}
	if f.piece {
		_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // never fails (sched_yield(2))
	}
	n, err = f.out.Read(p)
	f.piece = 8<<10 <= n && n < 64<<10
	return n, err
}

// copyAnswer copies git's output to the client. In error and progress messages (side bands 2 and 3,
// and ERR packets), it replaces repo, the repository's path on this machine, with a dot. It also
// writes these messages, unchanged, to the parameter messages. If they say that git has too little
// memory, it sends the client a hint.
//
// If messages is nil, the output comes from another gate, which has replaced the path already.
// copyAnswer then copies the output as it is. Before out waits for more, the reader below it must
// send the client what was written; copyAnswer does so only at the end. It returns an error if the
// client did not get everything. It does not report how git ended.
func copyAnswer(w *outgoing, out *bufio.Reader, repo string, messages *tail) (written int64, err error) {
	send := func(p []byte) error {
		n, err := w.Write(p)
		written += int64(n)
		return err
	}

	banded, explained := false, false // side band 2 is in use; the hint was sent
	for {
		header, err := out.Peek(4)
		length, isPacket := packetLength(header)
		if err != nil || !isPacket {
			break // the end of the output, or a pack without side bands
		}
		packet, err := out.Peek(max(4, length))
		if err != nil {
			break
		}

		whole := len(packet)
		if messages != nil && banded && !explained && endsMessages(packet[4:]) && messages.shortOfMemory() {
			explained = true
			var hint bytes.Buffer
			writePacket(&hint, "\x02"+memoryHint)
			if err := send(hint.Bytes()); err != nil {
				return written, err
			}
		}

		banded = banded || whole > 4 && packet[4] == 2
		if messages != nil && isMessage(packet[4:]) {
			_, _ = messages.Write(packet[5:])
			if bytes.Contains(packet, []byte(repo)) {
				var clean bytes.Buffer
				writePacket(&clean, string(bytes.ReplaceAll(packet[4:], []byte(repo), []byte("."))))
				packet = clean.Bytes()
			}
		}

		_, _ = out.Discard(whole) // packet stays valid until the next read
		if err := send(packet); err != nil {
			return written, err
		}
	}

	for {
		_, err := out.Peek(1)
		if some, _ := out.Peek(out.Buffered()); len(some) > 0 {
			_, _ = out.Discard(len(some))
			if err := send(some); err != nil {
				return written, err
			}
			continue
		}
		if err == io.EOF {
			return written, w.FlushError()
		}
		return written, err
	}
}

// isMessage reports whether a packet is a message to the person who runs the client.
func isMessage(content []byte) bool {
	return len(content) > 0 && (content[0] == 2 || content[0] == 3) || bytes.HasPrefix(content, []byte("ERR "))
}

// endsMessages reports whether a packet is a flush packet or a fatal error. After either, a client
// that knows side bands reads no message.
func endsMessages(content []byte) bool { return len(content) == 0 || content[0] == 3 }

const memoryHint = "terok-gate: git has too little memory here: see --git-memory of terok-gate serve\n"

// serviceLine returns the line that precedes git's advertisement, or "" for protocol version 2. The
// beginning of git's output shows the version. The request does not: receive-pack answers a request
// for version 2 with version 0.
func serviceLine(s service, begins []byte) string {
	if bytes.HasPrefix(begins, versionTwo) {
		return ""
	}
	var line bytes.Buffer
	writePacket(&line, "# service="+string(s)+"\n")
	return line.String() + "0000"
}

var versionTwo = []byte("000eversion 2")
