// Package units holds the systemd units for the system and for a user. They can be copied as they
// are; install fills in paths and settings.
package units

import "embed"

// Files are the units, as system/NAME and user/NAME.
//
//go:embed system/*.service system/*.timer user/*.service user/*.timer
var Files embed.FS
