// Package definitions holds the hook definitions. They can be copied as they are; install fills in
// paths and settings.
package definitions

import "embed"

// Files are the definitions by their file names.
//
//go:embed *.json
var Files embed.FS
