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
	mostFilters   = 4 // that are combined: git clients combine two
	longestFilter = 200
)

var badFilter = &refusal{code: http.StatusBadRequest, text: "the filter has too many parts"}

// filtered is a request to upload-pack on its way to git. It ends with the error badFilter before
// a filter that combines more than a few others: git keeps data for each of these and each object
// (8,000 of tree:9 on 20,000 files: 4 GB, git 2.39.5), and none of git's settings limits their
// number. Settings in environment.go limit their kinds.
type filtered struct {
	from *bufio.Reader
	left int   // bytes of the packet that is being read
	bad  error // the error that ended it, which every further Read returns
}

func newFiltered(r io.Reader) *filtered { return &filtered{from: bufio.NewReaderSize(r, 4<<10)} }

const (
	filterLine = "filter "
	lookAhead  = 4 + len(filterLine) + longestFilter + 1
)

// Read reads as many packets as it can without waiting, one at least.
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

// next looks at the beginning of a packet.
func (f *filtered) next() error {
	header, err := f.from.Peek(4)
	if len(header) < 4 {
		return err
	}
	length, ok := packetLength(header)
	if !ok {
		return malformed // or git would say so
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

// isAdmitted reports whether a filter has no more than a few parts. A client encodes characters,
// with a %, only in a combination within a combination, and in kinds of filters that are not
// served.
func isAdmitted(filter string) bool {
	return len(filter) <= longestFilter && !strings.Contains(filter, "%") && strings.Count(filter, "+") < mostFilters
}
