// Package version says which build of this repository a program is.
package version

import (
	"fmt"
	"runtime/debug"
)

// String is what go build has written into the program. Programs that were built
// together say the same.
func String() string {
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
