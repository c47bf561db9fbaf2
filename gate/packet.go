// Reads and writes packets of git's protocol (gitprotocol-common(5), "pkt-line Format").

package gate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

var errMalformed = errors.New("malformed commands of a push")

// readPacket reads one packet and copies it to raw. It returns the packet's content, which is nil
// for a flush packet. Other special packets are errors, since a push has none.
func readPacket(r io.Reader, raw *bytes.Buffer) ([]byte, error) {
	var header [4]byte
	n, err := io.ReadFull(r, header[:])
	raw.Write(header[:n])
	if err != nil {
		return nil, err
	}

	length, ok := packetLength(header[:])
	if !ok || length > 0 && length <= 4 {
		return nil, errMalformed
	}
	if length == 0 {
		return nil, nil
	}

	if _, err := io.CopyN(raw, r, int64(length-4)); err != nil {
		return nil, err
	}
	return raw.Bytes()[raw.Len()-(length-4):], nil
}

// packetLength returns the length of a packet, which its first four bytes give. The length
// includes these four.
func packetLength(header []byte) (length int, ok bool) {
	const largest = 65520
	for _, digit := range header {
		if !strings.ContainsRune("0123456789abcdefABCDEF", rune(digit)) {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(header), 16, 16)
	return int(n), err == nil && n <= largest
}

// writePacket writes one packet.
func writePacket(w io.Writer, content string) {
	fmt.Fprintf(w, "%04x%s", len(content)+4, content)
}
