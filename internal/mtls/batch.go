// Writes and reads several TLS records with one system call. A record has at most 16 KiB, and git
// sends packets of 64 KiB.

package mtls

import (
	"bytes"
	"net"
	"sync"
)

const (
	recordSize = 16 << 10 // bytes of content in a TLS record, at most (RFC 8446, section 5.1)
	batchSize  = 64 << 10
)

// buffers is a pool. Only connections that transfer much data have a buffer.
var buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, batchSize)) }}

// batching is a TCP connection. Between hold and release it collects what is written. It reads ahead
// while whole records arrive faster than they are read.
type batching struct {
	*net.TCPConn

	mu   sync.Mutex
	held *bytes.Buffer // nil unless writes are collected

	established bool          // the handshake is done: before that, a peer without a certificate gets no buffer
	busy        bool          // the last read got as much as it asked for, and that was much
	ahead       *bytes.Buffer // nil if nothing was read ahead
}

func (b *batching) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = buffers.Get().(*bytes.Buffer)
}

// release writes what was collected.
func (b *batching) release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.flush()
	buffers.Put(b.held)
	b.held = nil
	return err
}

func (b *batching) flush() error {
	_, err := b.TCPConn.Write(b.held.Bytes())
	b.held.Reset()
	return err
}

func (b *batching) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		return b.TCPConn.Write(p)
	}
	if b.held.Len() > 0 && b.held.Len()+len(p) > batchSize {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	return b.held.Write(p)
}

func (b *batching) Read(p []byte) (n int, err error) {
	if b.ahead == nil {
		if !b.busy {
			n, err = b.TCPConn.Read(p)
			b.busy = b.established && n == len(p) && n >= recordSize
			return n, err
		}

		b.ahead = buffers.Get().(*bytes.Buffer)
		n, err = b.TCPConn.Read(b.ahead.AvailableBuffer()[:batchSize])
		b.ahead.Write(b.ahead.AvailableBuffer()[:n])
		b.busy = n == batchSize
	}

	n, _ = b.ahead.Read(p)
	if b.ahead.Len() == 0 {
		b.ahead.Reset()
		buffers.Put(b.ahead)
		b.ahead = nil
	}
	return n, err
}
