package batch

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// sizes is a writer that notes how large each write is.
type sizes struct {
	of      []int
	content bytes.Buffer
	err     error
}

func (s *sizes) Write(p []byte) (int, error) {
	s.of = append(s.of, len(p))
	s.content.Write(p)
	return len(p), s.err
}

func TestWhatIsHeldIsWrittenAtTheReleaseAndInItsOrder(t *testing.T) {
	for name, row := range map[string]struct{ writes, want []int }{
		"a packet of git's, as http.Server writes it": {[]int{4096, 61_430, 2}, []int{65_528}},
		"more than fits":            {[]int{Size - 1, 1, 1}, []int{Size, 1}},
		"a write that is too large": {[]int{1, Size + 1, 1}, []int{1, Size + 1, 1}},
		"nothing":                   {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var to sizes
			w := NewWriter(&to)
			if !w.Hold() || w.Hold() {
				t.Error("a second Hold does not say that it is one")
			}
			var all []byte
			for i, n := range row.writes {
				p := bytes.Repeat([]byte{byte('a' + i)}, n)
				all = append(all, p...)
				if written, err := w.Write(p); written != n || err != nil {
					t.Errorf("of %d bytes, %d were taken: %v", n, written, err)
				}
			}

			if err := w.Release(); err != nil {
				t.Error(err)
			}
			if !slices.Equal(to.of, row.want) || !bytes.Equal(to.content.Bytes(), all) {
				t.Errorf("writes of %v, not %v", to.of, row.want)
			}
			if _, err := w.Write([]byte("more")); err != nil || to.of[len(to.of)-1] != 4 {
				t.Errorf("after the release, writes of %v, %v", to.of, err)
			}
		})
	}
}

// A write that fails may have sent a part. The receiver would take what comes next for the rest.
func TestNothingIsWrittenAfterAnError(t *testing.T) {
	to := sizes{err: errors.New("gone")}
	w := NewWriter(&to)
	w.Hold()
	if _, err := w.Write([]byte("some")); err != nil {
		t.Error(err)
	}
	if err := w.Release(); err != to.err {
		t.Errorf("the release returns %v", err)
	}

	err := to.err
	to.err = nil
	if _, got := w.Write([]byte("more")); got != err {
		t.Errorf("a later write returns %v", got)
	}
	w.Hold()
	if _, got := w.Write([]byte("more")); got != err {
		t.Errorf("a later write between Hold and Release returns %v", got)
	}
	if got := w.Release(); got != err {
		t.Errorf("a later release returns %v", got)
	}
	if len(to.of) != 1 {
		t.Errorf("writes of %v, not one", to.of)
	}
}
