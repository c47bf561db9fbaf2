// Makes a stream of text of many lines safe to print.

package printable

import (
	"fmt"
	"io"
	"unicode/utf8"
)

// Writer returns a writer that makes text safe for a terminal and passes it on to w. Line breaks
// and tabs stay; all other characters that do not print are escaped as by [Line]. Bytes that are
// not UTF-8 are escaped one by one. A character whose bytes come in two writes is passed on at the
// second.
func Writer(w io.Writer) io.Writer { return &writer{to: w} }

type writer struct {
	to   io.Writer
	rest []byte // the beginning of a character
}

func (w *writer) Write(p []byte) (int, error) {
	text := append(w.rest, p...)
	w.rest = nil

	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		if !utf8.FullRune(text) {
			w.rest = append([]byte(nil), text...)
			break
		}

		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			out = fmt.Appendf(out, `\x%02x`, text[0])
		case r == '\n' || r == '\t':
			out = append(out, byte(r))
		default:
			out = append(out, Line(string(r))...)
		}
		text = text[size:]
	}

	if _, err := w.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
