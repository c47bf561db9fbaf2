// Checks that a firewall lets the forwarder reach only the addresses of its services.

package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// ErrNotConfined reports that this process can reach addresses that are not those of its services.
var ErrNotConfined = errors.New("no firewall limits terok-gate forward to the addresses of its services")

// CheckConfined tries to send a datagram to a loopback address that no service has. A firewall that
// lets this process reach only the services, such as IPAddressDeny= of systemd, prevents that. If
// the datagram is sent, CheckConfined returns an error wrapping [ErrNotConfined].
func CheckConfined(services map[string]Target) error {
	other := otherAddress(services)
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(other))
	if err == nil {
		_, err = conn.Write([]byte{0})
		conn.Close()
	}

	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EAFNOSUPPORT):
		return nil
	case err != nil:
		return fmt.Errorf("try to reach %s: %w", other.Addr(), err)
	}
	return fmt.Errorf("%w: it reached %s", ErrNotConfined, other.Addr())
}

// otherAddress returns a loopback address that no service has, with the port of the discard service.
func otherAddress(services map[string]Target) netip.AddrPort {
	at := netip.MustParseAddr("127.255.255.254")
	for taken := true; taken; {
		taken = false
		for _, s := range services {
			if used, err := netip.ParseAddrPort(s.Address); err == nil && used.Addr().Unmap() == at {
				at, taken = at.Prev(), true
			}
		}
	}
	return netip.AddrPortFrom(at, 9)
}
