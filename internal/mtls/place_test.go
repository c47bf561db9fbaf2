package mtls

import "testing"

func TestAddressesOfRepositoryGates(t *testing.T) {
	for text, want := range map[string]string{
		"https://repos:9419":                  "repos:9419",
		"https://repos:9419/":                 "repos:9419",
		"https://repos":                       "repos:443",
		"https://{project}.git.example:9419":  "demo.git.example:9419",
		"https://192.0.2.1:9419":              "192.0.2.1:9419",
		"https://[2001:db8::1]:9419":          "[2001:db8::1]:9419",
		"https://[2001:db8::1]":               "[2001:db8::1]:443",
		"":                                    "",
		"repos:9419":                          "",
		"http://repos:9419":                   "",
		"https://":                            "",
		"https://:9419":                       "",
		"https://user@repos:9419":             "",
		"https://repos:9419/demo":             "",
		"https://repos:9419/?a=b":             "",
		"https://repos:9419/#a":               "",
		"https://repos:{project}":             "",
		"https://repos:9419/{project}":        "",
		"https://{project}.example/{project}": "",
	} {
		u, err := ParseURL(text)
		if want == "" {
			if err == nil {
				t.Errorf("%s is accepted", text)
			}
			continue
		}
		if err != nil || u.Address("demo") != want {
			t.Errorf("%s: %q, %v; want %q", text, u.Address("demo"), err, want)
		}
	}
}
