// Package version identifies the build of a program.
package version

import (
	"fmt"
	"runtime/debug"
)

// String returns the version, revision and Go version that go build recorded in the
// program. Programs that were built together return the same.
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
