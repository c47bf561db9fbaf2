// Package definitions holds the hook definitions, ready to be read and copied. Installing
// fills in paths and settings.
package definitions

import "embed"

// Files are the definitions by their file names.
//
//go:embed *.json
var Files embed.FS
