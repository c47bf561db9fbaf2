// Package batch writes with one system call what was to be written with several. [http.Server]
// writes a packet of git's in three parts: what fits into its buffer of 4 KiB, the rest, and a line
// end.
package batch

import (
	"bytes"
	"io"
	"sync"
)

// Size is how many bytes are collected at most: one packet of git's (65,520 bytes,
// gitprotocol-common(5)), with what HTTP and TLS add.
const Size = 66 << 10

// Buffers is a pool of buffers for Size bytes. Only connections that transfer much data have one.
var Buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, Size)) }}

// Writer writes to another writer. Between Hold and Release, it collects what is written. After the
// first error, it writes nothing more, since a part would be missing. It is safe for concurrent use.
type Writer struct {
	to io.Writer

	mu   sync.Mutex
	held *bytes.Buffer // nil unless writes are collected
	err  error         // the first error
}

// NewWriter returns a Writer that writes to another writer.
func NewWriter(to io.Writer) *Writer { return &Writer{to: to} }

// Hold makes the Writer collect what is written, up to Size bytes. It returns false if the Writer
// did so already.
func (w *Writer) Hold() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held != nil {
		return false
	}
	w.held = Buffers.Get().(*bytes.Buffer)
	return true
}

// Release writes what was collected, and makes the Writer collect no more. Without a Hold, it writes
// nothing.
func (w *Writer) Release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		return w.err
	}
	w.flush()
	Buffers.Put(w.held)
	w.held = nil
	return w.err
}

func (w *Writer) flush() {
	if w.held.Len() > 0 {
		_, _ = w.write(w.held.Bytes())
		w.held.Reset()
	}
}

func (w *Writer) write(p []byte) (n int, err error) {
	if w.err == nil {
		n, w.err = w.to.Write(p)
	}
	return n, w.err
}

// Write writes p, or collects it. If p and what was collected before are together more than Size
// bytes, Write first writes what was collected before.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		return w.write(p)
	}
	if w.held.Len()+len(p) > Size {
		w.flush()
	}
	if len(p) > Size || w.err != nil {
		return w.write(p)
	}
	return w.held.Write(p)
}
