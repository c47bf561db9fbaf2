// Accepts connections, for servers of tests.

package testenv

import "net"

// Accept serves each connection of a listener in a goroutine, and then closes the connection. It
// returns when the listener is closed.
func Accept(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}
