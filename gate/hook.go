// The gate as git's hook: what pre-receive and post-receive say to the gate that
// started git, over descriptor 3.
//
//	pre-receive   "ask\n"                      the gate: "yes\n" or "no\n"
//	post-receive  "moved OLD NEW REF\n" for each ref
//
// The environment holds nothing for them: what git is told there, whoever can look at
// its processes can read.

package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hooks are those of git's hooks that the gate's binary is.
var hooks = []string{"pre-receive", "post-receive"}

// RunHook runs a hook, if the program was called as one by its name, and returns its
// exit status. A program that serves a gate calls it first thing.
func RunHook(name string) (status int, isHook bool) {
	hook := map[string]func(gate *os.File) error{
		"pre-receive": preReceive, "post-receive": postReceive,
	}[filepath.Base(name)]
	if hook == nil {
		return 0, false
	}
	gate := os.NewFile(3, "gate")
	if err := hook(gate); err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err) // the client reads it
		return 1, true
	}
	return 0, true
}

var errNotValidAnyMore = errors.New("the token is not valid any more")

func preReceive(gate *os.File) error {
	if _, err := gate.WriteString("ask\n"); err != nil {
		return errors.New("it cannot be asked")
	}
	answer, err := bufio.NewReader(gate).ReadString('\n')
	if err != nil {
		return errors.New("it does not answer")
	}
	if answer != "yes\n" {
		return errNotValidAnyMore
	}
	return nil
}

// postReceive cannot fail a push any more.
func postReceive(gate *os.File) error {
	moved := bufio.NewWriter(gate)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Fprintf(moved, "moved %s\n", lines.Text())
	}
	if err := moved.Flush(); err != nil {
		return errors.New("it cannot be told")
	}
	return nil
}

// mostMoves is how many refs of a push the trail names.
const mostMoves = 1000

// move is a ref that a push moves: created, if its old object is all zeroes, and
// deleted, if its new one is.
type move struct{ old, new, ref string }

// parseMove reads "OLD NEW REF".
func parseMove(line string) (move, bool) {
	fields := strings.SplitN(line, " ", 3)
	if len(fields) != 3 || !isObjectID(fields[0]) || !isObjectID(fields[1]) || len(fields[0]) != len(fields[1]) || fields[2] == "" {
		return move{}, false
	}
	return move{fields[0], fields[1], fields[2]}, true
}

func isObjectID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// conversation is the gate's end of descriptor 3.
type conversation struct {
	conn    net.Conn
	saidYes bool // until then, nothing moves
	saidNo  bool
	moved   []move // the first of them
	number  int
	ended   chan struct{}
}

// converse begins a conversation with the hooks of a git that gets theirs. It asks
// whether the push may still go on when pre-receive does.
func converse(mayGoOn func() bool) (c *conversation, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for git's hooks: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "hooks")
	defer ours.Close()
	theirs = os.NewFile(uintptr(pair[1]), "gate")
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket for git's hooks: %w", err)
	}
	c = &conversation{conn: conn, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		lines := bufio.NewReader(conn)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSuffix(line, "\n")
			if line == "ask" {
				answer := "no\n"
				if c.saidYes = mayGoOn(); c.saidYes {
					answer = "yes\n"
				}
				c.saidNo = !c.saidYes
				if _, err := io.WriteString(conn, answer); err != nil {
					return
				}
			} else if moved, ok := parseMove(strings.TrimPrefix(line, "moved ")); ok {
				if c.number++; len(c.moved) < mostMoves {
					c.moved = append(c.moved, moved)
				}
			}
		}
	}()
	return c, theirs, nil
}

// end waits for the hooks' last word, when git and all that it started have ended, and
// returns what moved: the first refs, and how many in all.
func (c *conversation) end() (moved []move, number int) {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Second)) // should somebody still hold it open
	<-c.ended
	c.conn.Close()
	return c.moved, c.number
}
