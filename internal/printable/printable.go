// Package printable makes text from other programs, images or annotations safe to print. A terminal
// would act on control characters in such text. A shell, into which a user pastes the text, would
// act on many other characters.
package printable

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line returns the text as one line, in which characters that do not print are escaped.
func Line(s string) string {
	var out strings.Builder
	for _, r := range s {
		if isVisible(r) {
			out.WriteRune(r)
		} else {
			out.WriteString(strings.Trim(fmt.Sprintf("%+q", r), "'"))
		}
	}
	return out.String()
}

// isVisible reports whether the character prints. It returns false for letters and marks that show
// nothing: text and programs have been hidden in them.
func isVisible(r rune) bool {
	return unicode.IsPrint(r) && !unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// JSON returns the JSON text, in which characters that do not print are escaped. (Of these,
// encoding/json escapes only U+2028, U+2029 and those below U+0020.)
func JSON(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		if r < 0x80 || isVisible(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return bytes.ReplaceAll(out, []byte{0x7f}, []byte(`\u007f`))
}

// Shell quotes the words so that a POSIX shell reads them back unchanged.
func Shell(words ...string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.ContainsFunc(word, isSpecial) {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// isSpecial reports whether the character could be special to a shell.
func isSpecial(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_@%+=:,./-", r)
}
