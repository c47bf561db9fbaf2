// Package units holds the systemd units, ready to be read and copied, for the system and
// for a user. Installing fills in paths and settings.
package units

import "embed"

// Files are the units, as system/NAME and user/NAME.
//
//go:embed system/*.service system/*.timer user/*.service user/*.timer
var Files embed.FS
