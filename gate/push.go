// Parses the commands of a push (gitprotocol-pack(5), "Reference Update Request"), and writes the
// report of a push that is refused.

package gate

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"terok-gate-hook/internal/printable"
	"terok-gate-hook/store"
)

const (
	commandsLimit = 4 << 20 // about 40,000 refs; each of 64 pushes at once may have so many
	longestRef    = 4096    // PATH_MAX: git keeps refs in files
)

var errTooLarge = errors.New("too large")

// commands are the commands of a push, as the client sent them.
type commands struct {
	raw          []byte
	first        [2]int // where the first command's packet begins and ends
	number       int
	capabilities string
}

// readCommands reads the commands of a push, up to the first flush packet. It is stricter than git:
// it returns an error for anything that git might read differently.
func readCommands(r *bufio.Reader) (c commands, err error) {
	var raw bytes.Buffer
	for {
		packet, err := readPacket(r, &raw)
		if err != nil {
			return c, err
		}
		if packet == nil {
			c.raw = raw.Bytes()
			return c, nil
		}
		if raw.Len() > commandsLimit {
			return c, errTooLarge
		}

		if id, shallow := strings.CutPrefix(strings.TrimSuffix(string(packet), "\n"), "shallow "); shallow {
			if !isObjectID(id) {
				return c, errMalformed
			}
			continue
		}

		if _, capabilities, err := parseCommand(packet); err != nil {
			return c, err
		} else if c.number == 0 {
			c.capabilities = capabilities
			c.first = [2]int{raw.Len() - len(packet) - 4, raw.Len()}
		}
		c.number++
	}
}

// parseCommand parses one command: "OLD NEW REF" and, after a NUL, the client's capabilities.
func parseCommand(packet []byte) (m move, capabilities string, err error) {
	line, capabilities, _ := strings.Cut(string(packet), "\x00")
	m, ok := parseMove(strings.TrimSuffix(line, "\n"))
	if !ok || len(m.ref) > longestRef || len(capabilities) > longestRef || strings.ContainsAny(m.ref, "\n\r\t ") {
		return m, "", errMalformed
	}
	return m, strings.TrimSuffix(capabilities, "\n"), nil
}

// all returns the commands in order.
func (c commands) all() iter.Seq[move] {
	return func(yield func(move) bool) {
		r, scratch := bytes.NewReader(c.raw), bytes.Buffer{}
		for {
			scratch.Reset()
			packet, err := readPacket(r, &scratch)
			if err != nil || packet == nil {
				return
			}
			if m, _, err := parseCommand(packet); err == nil && !yield(m) {
				return
			}
		}
	}
}

// forGit returns the commands with the capability atomic added, so that git moves all refs in one
// transaction, or none. atomic comes before the client's capabilities, since git reads capabilities
// only up to a NUL, and the client's may contain a NUL.
func (c commands) forGit() io.Reader {
	const atomic = "atomic "
	command, capabilities, _ := strings.Cut(string(c.raw[c.first[0]+4:c.first[1]]), "\x00")
	var first bytes.Buffer
	writePacket(&first, strings.TrimSuffix(command, "\n")+"\x00"+atomic+capabilities)
	return io.MultiReader(bytes.NewReader(c.raw[:c.first[0]]), &first, bytes.NewReader(c.raw[c.first[1]:]))
}

// can reports whether the client has sent this capability.
func (c commands) can(capability string) bool {
	return slices.Contains(strings.Fields(c.capabilities), capability)
}

// mostNamed is how many refused refs of a push have their reason in full in the report.
const mostNamed = 10

// refuse answers a push with a report in git's protocol. The report has the reason why each ref
// does not move. git's client shows the text of no other answer to a push.
//
// A push may name 40,000 refs. So only the first mostNamed refs that are refused have their reason
// in full, and refuse writes the report while it makes it.
func (c commands) refuse(w io.Writer, whyNot func(move) string) error {
	banded := c.can("side-band-64k")
	const largest = 65515 // bytes in a packet of side band 1
	out := bufio.NewWriter(w)
	var report bytes.Buffer
	send := func(atLeast int) {
		for report.Len() > atLeast {
			if banded {
				part := report.Next(largest)
				fmt.Fprintf(out, "%04x\x01", 4+1+len(part))
				_, _ = out.Write(part)
			} else {
				_, _ = out.Write(report.Next(report.Len())) // an error is kept for out.Flush
			}
		}
	}

	writePacket(&report, "unpack ok\n")
	refused, last := 0, ""
	for m := range c.all() {
		why := whyNot(m)
		if why != "" {
			refused, last = refused+1, why
		}
		switch {
		case why == "":
			why = "another ref of the push is refused"
		case refused > mostNamed:
			why = "refused like the refs before it"
		}
		writePacket(&report, "ng "+m.ref+" "+why+"\n")
		send(largest)
	}
	report.WriteString("0000")
	send(0)

	if banded {
		if refused > mostNamed {
			writePacket(out, fmt.Sprintf("\x02terok-gate: %d refs are refused, the last one: %s\n", refused, last))
		}
		_, _ = io.WriteString(out, "0000")
	}
	return out.Flush()
}

// outsideOf returns the text for a ref that the limits do not permit. The text names the refs that
// they permit.
func outsideOf(limits store.Limits) string {
	const longest = 1000
	return fmt.Sprintf("the token may push to %.*s", longest, printable.Line(limits.Pushes()))
}
