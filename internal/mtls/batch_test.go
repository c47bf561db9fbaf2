package mtls

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"terok-gate-hook/internal/batch"
	"terok-gate-hook/internal/testenv"
)

func TestWhatIsSentArrivesWhateverItsSize(t *testing.T) {
	authority := testenv.NewAuthority(t, t.TempDir())
	tcp, err := Listen(t.Context(), "127.0.0.1:0")
	testenv.Must(t, err)
	l := identityOf(t, authority, "repos").NewListener(tcp, 8, func(err error) { t.Error(err) })
	defer l.Close()
	go testenv.Accept(l, func(conn net.Conn) { _, _ = io.CopyBuffer(conn, onlyReader{conn}, make([]byte, 100_000)) })
	conn, err := identityOf(t, authority, "host-a").Dial(t.Context(), tcp.Addr().String())
	testenv.Must(t, err)
	defer conn.Close()

	sent := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent)
	go func() {
		sizes := []int{1, 1000, recordSize, recordSize + 1, batch.Size - 16, batch.Size, 3 * batch.Size}
		for left := sent; len(left) > 0; {
			n := min(len(left), sizes[rand.IntN(len(sizes))])
			if _, err := conn.Write(left[:n]); err != nil {
				t.Error(err)
				return
			}
			left = left[n:]
		}
	}()
	got := make([]byte, len(sent))
	_, err = io.ReadFull(conn, got)
	testenv.Must(t, err)
	if !bytes.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
}

// onlyReader hides all other methods of a connection, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }
