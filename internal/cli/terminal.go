// What a terminal shows in colour, and nothing else than a terminal is sent.

package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
)

// paint puts the text into colour if there is somebody to show it to (see also
// no-color.org).
func paint(w *os.File, colour, text string) string {
	_, err := unix.IoctlGetTermios(int(w.Fd()), unix.TCGETS)
	if colour == "" || err != nil || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return colour + text + "\x1b[0m"
}
