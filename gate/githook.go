// The gate as git's hook: what pre-receive and post-receive say to the gate that
// started git, over descriptor 3.
//
//	pre-receive   "ask\n"                      the gate: "yes\n" or "no\n"
//	post-receive  "moved OLD NEW REF\n" for each ref
//
// The environment holds nothing for them: whoever can look at git's processes can read
// what git is told there.

package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gitHooks are those of git's hooks that the gate's binary is.
var gitHooks = []string{"pre-receive", "post-receive"}

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

// makeHooks puts the links in place, without a moment at which there are none.
func (g *Gate) makeHooks() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(g.hooks, 0o700); err != nil {
		return err
	}
	for _, hook := range gitHooks {
		link := filepath.Join(g.hooks, hook)
		if err := os.Remove(link + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(self, link+".new"); err != nil {
			return err
		}
		if err := os.Rename(link+".new", link); err != nil {
			return err
		}
	}
	return g.checkHooks()
}

// checkHooks must succeed before a push: git passes over a hook that is missing or not
// executable, in silence.
func (g *Gate) checkHooks() error {
	for _, hook := range gitHooks {
		link := filepath.Join(g.hooks, hook)
		if err := unix.Access(link, unix.X_OK); err != nil {
			return fmt.Errorf("hook %s: %w", link, err)
		}
	}
	return nil
}
