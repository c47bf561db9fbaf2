// Reads and writes several TLS records with one system call. A record has at most 16 KiB, and git
// sends packets of 64 KiB.

package mtls

import (
	"bytes"
	"net"

	"terok-gate-hook/internal/batch"
)

const recordSize = 16 << 10 // bytes of content in a TLS record, at most (RFC 8446, section 5.1)

// batching is a TCP connection. It writes through a [batch.Writer], and reads ahead while whole
// records arrive faster than they are read.
type batching struct {
	*net.TCPConn
	out *batch.Writer

	established bool          // the handshake is done: a peer that has shown no certificate gets no buffer
	busy        bool          // the last read got as much as it asked for, and that was much
	ahead       *bytes.Buffer // nil if nothing was read ahead
	beforeRead  func() error  // nil, or called before each system call that reads
}

func newBatching(conn *net.TCPConn) batching {
	return batching{TCPConn: conn, out: batch.NewWriter(conn)}
}

func (b *batching) Write(p []byte) (int, error) { return b.out.Write(p) }

func (b *batching) Read(p []byte) (n int, err error) {
	if b.ahead == nil {
		if b.beforeRead != nil {
			if err := b.beforeRead(); err != nil {
				return 0, err
			}
		}
		if !b.busy {
			n, err = b.TCPConn.Read(p)
			b.busy = b.established && n == len(p) && n >= recordSize
			return n, err
		}

		b.ahead = batch.Buffers.Get().(*bytes.Buffer)
		n, err = b.TCPConn.Read(b.ahead.AvailableBuffer()[:batch.Size])
		b.ahead.Write(b.ahead.AvailableBuffer()[:n])
		b.busy = n == batch.Size
	}

	n, _ = b.ahead.Read(p)
	if b.ahead.Len() == 0 {
		b.ahead.Reset()
		batch.Buffers.Put(b.ahead)
		b.ahead = nil
	}
	return n, err
}
