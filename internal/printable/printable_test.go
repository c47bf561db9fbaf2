package printable

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func TestControlCharactersAreEscaped(t *testing.T) {
	for _, row := range []struct{ name, text, line string }{
		{"plain text", "demo, dém0 and 日本", "demo, dém0 and 日本"},
		{"a line break", "a\nb", `a\nb`},
		{"an escape sequence", "\x1b[31m", `\x1b[31m`},
		{"its one-character form", "\u009b31m", `\u009b31m`},
		{"a change of direction", "\u202eomed", `\u202eomed`},
		{"a character beyond 16 bits that does not print", "\U000e0001", `\U000e0001`},
		{"a variation selector", "a\ufe0fb\U000e0100", `a\ufe0fb\U000e0100`},
		{"a letter that shows nothing", "a\u3164b\u115f", `a\u3164b\u115f`},
		{"a joiner that shows nothing", "a\u034fb", `a\u034fb`},
		{"a delete", "\x7f", `\x7f`},
		{"no UTF-8", "a\xffb", "a\ufffdb"},
	} {
		if got := Line(row.text); got != row.line {
			t.Errorf("%s: the line is %q", row.name, got)
		}
		text, err := json.Marshal(row.text)
		if err != nil {
			t.Fatal(err)
		}
		text = JSON(text)
		if got := Line(string(text)); got != string(text) {
			t.Errorf("%s: the JSON is %q", row.name, text)
		}
		var got, want string
		if err := json.Unmarshal(text, &got); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		if want = string([]rune(row.text)); got != want {
			t.Errorf("%s: the JSON holds %q", row.name, got)
		}
	}
}

func TestTextIsPassedOnWithoutWhatATerminalActsOn(t *testing.T) {
	const text = "a\tb\n\x1b[2J\r\x00\xff\u202e\u009b\u00e9\x7f\xe2\x82"
	const want = "a\tb\n" + `\x1b[2J\r\x00\xff\u202e\u009b` + "\u00e9" + `\x7f`
	for _, size := range []int{1, 2, 3, 100} {
		var out strings.Builder
		w := Writer(&out)
		for rest := text; rest != ""; {
			n, err := io.WriteString(w, rest[:min(size, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Errorf("%d bytes at a time: %q, want %q", size, out.String(), want)
		}
	}
}
