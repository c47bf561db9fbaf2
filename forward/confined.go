// Tries what a forwarder must not be able to do.

package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// ErrNotConfined reports that nothing keeps this process from addresses that are not those of
// its services.
var ErrNotConfined = errors.New("nothing keeps terok-gate forward from other addresses than those of its services")

// CheckConfined tries to send a datagram to an address of this machine that is none of the
// services'. That fails where a firewall lets this process reach the services alone, as
// IPAddressDeny= of systemd does. If it does not fail, the error wraps [ErrNotConfined]. No
// datagram leaves this machine.
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

// otherAddress returns an address of the loopback that no service has, at the port discard.
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
