// Copies git's answers to the client, without paths of this machine, and adds a line where git's
// own message does not name the limit that was met.

package gate

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"sync"
)

// answerBuffers is a pool. Each buffer holds at least a packet of git's, so that a packet is
// read and written at once.
var answerBuffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 128<<10) }}

// copyAnswer copies git's output to the client, as it comes. Error and progress messages
// in it (side bands 2 and 3, and ERR packets) may name the repository's path on this
// machine, which is replaced with a dot; they are also written to messages, unchanged. If they
// say that git has too little memory, a message that names the limit follows. If messages is nil,
// the output is an answer that another gate has cleaned, and stays as it is. copyAnswer returns an
// error if the client did not get everything. It does not report how git ended.
func copyAnswer(w http.ResponseWriter, out *bufio.Reader, repo string, messages *tail) (written int64, err error) {
	flush := http.NewResponseController(w).Flush
	send := func(p []byte) error {
		n, err := w.Write(p)
		written += int64(n)
		if err == nil && out.Buffered() == 0 { // git is not ahead of us
			err = flush()
		}
		return err
	}

	banded, explained := false, false // by messages of side band 2
	for {
		header, err := out.Peek(4)
		length, isPacket := packetLength(header)
		if err != nil || !isPacket {
			break // its end, or a pack for a client without side bands
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

		_, _ = out.Discard(whole) // the bytes stay where they are until the next read
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
			return written, nil
		}
		return written, err
	}
}

// isMessage reports whether a packet is a message to the person who runs the client.
func isMessage(content []byte) bool {
	return len(content) > 0 && (content[0] == 2 || content[0] == 3) || bytes.HasPrefix(content, []byte("ERR "))
}

// endsMessages reports whether a client that knows side bands reads no message after this
// packet: it is a flush packet or a fatal error.
func endsMessages(content []byte) bool { return len(content) == 0 || content[0] == 3 }

const memoryHint = "terok-gate: git has too little memory here: see --git-memory of terok-gate serve\n"

// serviceLine returns the line that precedes git's advertisement, empty for version 2. It goes
// by git's output, not by the request: receive-pack answers version 2 with version 0.
func serviceLine(s service, begins []byte) string {
	if bytes.HasPrefix(begins, versionTwo) {
		return ""
	}
	var line bytes.Buffer
	writePacket(&line, "# service="+string(s)+"\n")
	return line.String() + "0000"
}

var versionTwo = []byte("000eversion 2")
