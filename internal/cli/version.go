// What --version says: what go build has written into the binary.

package cli

import (
	"fmt"
	"runtime/debug"
)

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version // (devel) outside a released module
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v += " " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			v += " modified"
		}
	}
	return fmt.Sprintf("%s (%s)", v, info.GoVersion)
}
