// Copies from one socket to another within the kernel, by splice(2).

package forward

import (
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// splice copies until the source has closed its end, and returns how many bytes it copied. While
// it waits for the source, it holds nothing but the sockets. (io.Copy would hold a pipe of one
// MiB. With 64 such pipes, a user reaches pipe-user-pages-soft. From then on, the kernel gives all
// programs of that user new pipes of only two pages: pipe(7).)
func splice(to, from net.Conn) (copied int64, err error) {
	source, err := rawConn(from)
	if err != nil {
		return 0, err
	}
	sink, err := rawConn(to)
	if err != nil {
		return 0, err
	}

	for {
		through, n, err := fill(source)
		if err != nil || n == 0 {
			return copied, err
		}
		if err := through.drain(sink, n); err != nil {
			through.discard()
			return copied, err
		}
		pipes.Put(through)
		copied += n
	}
}

func rawConn(conn net.Conn) (syscall.RawConn, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil, os.ErrInvalid
	}
	return socket.SyscallConn()
}

// pipe holds the data that was taken from one socket and not yet given to the other.
type pipe struct{ read, write int }

// pipes is a pool of empty pipes. A finalizer closes those that the pool drops.
var pipes = sync.Pool{}

func newPipe() (*pipe, error) {
	if p, ok := pipes.Get().(*pipe); ok {
		return p, nil
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	p := &pipe{ends[0], ends[1]}
	runtime.SetFinalizer(p, (*pipe).close)
	return p, nil
}

// discard closes a pipe that is not empty.
func (p *pipe) discard() {
	runtime.SetFinalizer(p, nil)
	p.close()
}

func (p *pipe) close() {
	unix.Close(p.read)
	unix.Close(p.write)
}

// mostSpliced is more than the 64 KiB that a new pipe holds (pipe(7)).
const mostSpliced = 1 << 20

// fill waits for the source, and returns a pipe with the n bytes that it sent. If the source has
// closed its end, n is 0 and there is no pipe.
func fill(source syscall.RawConn) (p *pipe, n int64, err error) {
	closed := source.Read(func(fd uintptr) (done bool) {
		if p, err = newPipe(); err != nil {
			return true
		}
		n, err = move(int(fd), p.write, mostSpliced)
		if n > 0 {
			return true
		}
		pipes.Put(p)
		p = nil // the pool may give it to another connection, or close it
		return err != unix.EAGAIN
	})
	if closed != nil {
		return nil, 0, closed
	}
	return p, n, os.NewSyscallError("splice", err)
}

// drain waits until the sink has taken all that is in the pipe.
func (p *pipe) drain(sink syscall.RawConn, n int64) (err error) {
	for n > 0 && err == nil {
		var given int64
		closed := sink.Write(func(fd uintptr) (done bool) {
			given, err = move(p.read, int(fd), n)
			return err != unix.EAGAIN
		})
		if closed != nil {
			return closed
		}
		n -= given
	}
	return os.NewSyscallError("splice", err)
}

// move moves at most n bytes from a pipe to a socket, or from a socket to a pipe.
func move(from, to int, n int64) (int64, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, int(n), unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return max(0, moved), err
		}
	}
}
