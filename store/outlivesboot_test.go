package store

import "testing"

// The folder need not be synced for a token that is void after a power cut anyway. It is
// void by proof, and that takes the machine's id: a revoked token that the cut brought
// back would else be valid for ever.
func TestWhatOutlivesAPowerCut(t *testing.T) {
	tied := Entry{Container: "c", Process: &Process{Machine: "m", Boot: "b", PID: 1}}
	withoutID := Entry{Container: "c", Process: &Process{Boot: "b", PID: 1}}
	for _, row := range []struct {
		name string
		add  *Entry
		gone []Entry
		want bool
	}{
		{"a container's token comes and one goes", &tied, []Entry{tied}, false},
		{"an operator's token comes", &Entry{}, nil, true},
		{"an operator's token goes, among others", nil, []Entry{tied, {}}, true},
		{"a container's token goes, on a machine without an id", nil, []Entry{tied, withoutID}, true},
		{"a container's token comes, on a machine without an id", &withoutID, nil, false},
	} {
		if got := (edit{add: row.add}).outlivesBoot(row.gone); got != row.want {
			t.Errorf("%s: %t, not %t", row.name, got, row.want)
		}
	}
}
