// Limits the filter of a partial clone, in a request to upload-pack.

package gate

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
)

const (
	mostFilters   = 4 // in a combined filter; git's clients combine two
	longestFilter = 200
)

var badFilter = &refusal{code: http.StatusBadRequest, text: "the filter is too long, has too many parts, or is encoded"}

// filtered is a request to upload-pack on its way to git. If isAdmitted does not admit a filter in
// the request, filtered ends with the error badFilter before that filter.
//
// git keeps data for each object and each of the combined filters: 8,000 times tree:9 on 20,000
// files took 4 GB (git 2.39.5). git has no setting for the number of filters. Settings in
// environment.go limit their kinds.
type filtered struct {
	from *bufio.Reader
	left int   // the unread bytes of the packet that is being read
	bad  error // what ended the request; every further Read returns it
}

// newFiltered reads from r through a small buffer: most requests fit into it, and a thousand may
// wait at once for a slot.
func newFiltered(r io.Reader) *filtered { return &filtered{from: bufio.NewReaderSize(r, 1<<10)} }

const (
	filterLine = "filter "
	lookAhead  = 4 + len(filterLine) + longestFilter + 1
)

// Read waits only if it has read nothing yet.
func (f *filtered) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if n > 0 && f.from.Buffered() < lookAhead {
			return n, nil
		}
		if f.left == 0 {
			if f.bad == nil {
				f.bad = f.next()
			}
			if f.bad != nil {
				return n, f.bad
			}
		}

		m, err := f.from.Read(p[n:min(len(p), n+f.left)])
		n += m
		f.left -= m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// next examines the beginning of the next packet, before the packet is read.
func (f *filtered) next() error {
	header, err := f.from.Peek(4)
	if len(header) < 4 {
		return err
	}
	length, ok := packetLength(header)
	if !ok {
		return malformed
	}

	length = max(4, length)
	packet, _ := f.from.Peek(min(length, lookAhead))
	filter, is := bytes.CutPrefix(packet[4:], []byte(filterLine))
	if is && !isAdmitted(strings.TrimSuffix(string(filter), "\n")) {
		return badFilter
	}
	f.left = length
	return nil
}

// isAdmitted reports whether a filter is short and has at most mostFilters parts. It admits no %:
// clients encode characters only in a combination within a combination, and in kinds of filters
// that are not served.
func isAdmitted(filter string) bool {
	return len(filter) <= longestFilter && !strings.Contains(filter, "%") && strings.Count(filter, "+") < mostFilters
}
