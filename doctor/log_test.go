package doctor

import (
	"net"
	"testing"

	"terok-gate-hook/internal/testenv"
)

func TestDoctorSaysThatHooksFailWithoutAReason(t *testing.T) {
	testenv.NeedRoot(t)
	const lonely = "nobody listens on /dev/log, and there is no log file: a hook that refuses or fails leaves no reason anywhere"
	onAThread(t, func() {
		ourOwn(t, "/dev")
		found := oneCheck("log", Doctor{Binary: "/nothing"})
		finds(t, found, "log", Warning, lonely)
		if want := "/nothing --log-file /var/log/terok-gate-hook.log install"; found[0].Remedy != want {
			t.Errorf("what mends it is %s, not %s", found[0].Remedy, want)
		}
		log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
		noError(t, err)
		finds(t, oneCheck("log", Doctor{}), "log", OK, "what the hooks say is in the ")
		log.Close() // the socket stays, as when a logger is killed
		finds(t, oneCheck("log", Doctor{}), "log", Warning, lonely)
	})
}
