// Package units holds the systemd units for the system and for a user. They work as they
// are, with the default paths and settings. The command terok-gate install writes copies with the
// paths and settings of its installation.
package units

import "embed"

// Files are the units, as system/NAME and user/NAME.
//
//go:embed system/*.service system/*.timer user/*.service user/*.timer
var Files embed.FS
