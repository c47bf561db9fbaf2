package voucher

import (
	"encoding/base64"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

var whole = Voucher{
	Project: "demo", Task: "t1", Container: strings.Repeat("c", 64), Fingerprint: "0123abcd",
	Access: "append", Push: [][]string{{"refs/heads/agent/**"}},
}

func TestVoucherArrivesAsItWasSetInThePlaceOfAForgedOne(t *testing.T) {
	header := http.Header{Header: {"forged", "twice"}}
	if err := whole.Set(header); err != nil {
		t.Fatal(err)
	}
	if got, err := From(header); err != nil || !reflect.DeepEqual(got, whole) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestVoucherThatMustNotBeBelievedIsRefused(t *testing.T) {
	const rest = `,"fingerprint":"0123abcd","access":"write"`
	for name, json := range map[string]string{
		"nothing":           ``,
		"null":              `null`,
		"no project":        `{"project":"","task":"t"` + rest + `}`,
		"every project":     `{"project":"*","task":"t"` + rest + `}`,
		"a path":            `{"project":"../x","task":"t"` + rest + `}`,
		"no task":           `{"project":"demo"` + rest + `}`,
		"a key in capitals": `{"PROJECT":"demo","task":"t"` + rest + `}`,
		"project twice":     `{"project":"demo","project":"other","task":"t"` + rest + `}`,
		"unknown key":       `{"project":"demo","task":"t"` + rest + `,"host":"b"}`,
		"space":             `{"project": "demo","task":"t"` + rest + `}`,
		"more after it":     `{"project":"demo","task":"t"` + rest + `}{}`,
		"an empty list":     `{"project":"demo","task":"t"` + rest + `,"push":[]}`,
		"unknown access":    `{"project":"demo","task":"t","fingerprint":"0123abcd","access":"all"}`,
		"no access":         `{"project":"demo","task":"t","fingerprint":"0123abcd","access":""}`,
		"a token":           `{"project":"demo","task":"t","fingerprint":"terok-g-0123","access":"write"}`,
		"two lines":         `{"project":"demo","task":"t","container":"a\nb"` + rest + `}`,
	} {
		header := http.Header{Header: {base64.RawURLEncoding.EncodeToString([]byte(json))}}
		if v, err := From(header); err == nil {
			t.Errorf("%s: believed as %+v", name, v)
		}
	}

	text, _ := whole.encode()
	for name, values := range map[string][]string{
		"none": nil, "twice": {text, text}, "padded": {text + "="}, "space": {text + " "}, "a line end": {text[:8] + "\n" + text[8:]},
		"too long": {strings.Repeat("A", Longest+1)},
	} {
		if v, err := From(http.Header{Header: values}); err == nil {
			t.Errorf("%s: believed as %+v", name, v)
		}
	}
}

// FuzzVoucher checks that every accepted voucher is valid and has one form.
func FuzzVoucher(f *testing.F) {
	text, _ := whole.encode()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parse(text)
		if err != nil {
			return
		}
		header := http.Header{}
		if err := v.Set(header); err != nil || header.Get(Header) != text {
			t.Fatalf("%q is believed, but its form is %q (%v)", text, header.Get(Header), err)
		}
		if v.Limits().Access() != v.Access {
			t.Fatalf("access %q is taken for %q", v.Access, v.Limits().Access())
		}
	})
}
