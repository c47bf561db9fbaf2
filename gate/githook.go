// Runs as git's hooks, which send messages over descriptor 3, to the gate that started git:
//
//	pre-receive             "ask", then the name of git's quarantine, if it has one
//	reference-transaction   "prepared", then "OLD NEW REF" for each ref
//	                        "committed"
//	                        "aborted"
//
// Each message ends with an empty line. The gate answers each with one line: "yes", or the reason
// why git may not go on.
//
// git runs reference-transaction when it has locked the refs and compared their old values
// (prepared). It runs the hook again when the refs have moved, before it tells the client
// (committed). A push is one transaction if it is atomic. Otherwise, git before 2.51 makes a
// transaction for each ref.
//
// The gate passes nothing to the hooks in the environment, since a user who can look at git's
// processes can read their environment.

package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// RunHook runs the hook with the name by which the program was called, and returns the hook's exit
// status. isHook is false if there is no such hook. A program that serves a gate calls RunHook
// first.
func RunHook(name string) (status int, isHook bool) {
	hook := map[string]func(gate *os.File) error{
		"pre-receive": preReceive, "reference-transaction": referenceTransaction,
	}[filepath.Base(name)]
	if hook == nil {
		return 0, false
	}
	if err := hook(os.NewFile(3, "gate")); err != nil {
		fmt.Fprintln(os.Stderr, err) // git shows the client what pre-receive prints
		return 1, true
	}
	return 0, true
}

func preReceive(gate *os.File) error {
	message := "ask\n"
	if path := os.Getenv("GIT_QUARANTINE_PATH"); path != "" {
		message += filepath.Base(path) + "\n"
	}
	return ask(gate, message)
}

func referenceTransaction(gate *os.File) error {
	if len(os.Args) != 2 {
		return errors.New("git names no state of the transaction")
	}
	state := os.Args[1]
	if state == "preparing" { // from git 2.54 on: nothing is locked yet
		return nil
	}

	refs, err := movesOf(os.Stdin)
	if err != nil || len(refs) == 0 {
		return err
	}
	if state != "prepared" {
		refs = nil // the gate knows them
	}
	return ask(gate, state+"\n"+string(refs))
}

// movesOf reads the moves of a transaction's refs. It leaves out HEAD, which git names in addition
// to the branch that moves. It also leaves out moves from zeroes to zeroes. git names such a move
// when it removes a packed ref, which it does in a transaction within the transaction. git 2.47 also
// names such a move for a symbolic ref, in addition to the ref that the symbolic ref stands for.
func movesOf(r io.Reader) (refs moves, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m, ok := parseMove(lines.Text())
		if !ok {
			continue // a ref that becomes symbolic: no push can do that
		}
		if m.ref != "HEAD" && !(isZero(m.old) && isZero(m.new)) {
			refs = append(append(refs, lines.Bytes()...), '\n')
		}
	}
	return refs, lines.Err()
}

// ask sends the gate a message. It returns nil if the gate answers yes.
func ask(gate *os.File, message string) error {
	if _, err := io.WriteString(gate, message+"\n"); err != nil {
		return errors.New("terok-gate cannot be reached; try again in a moment")
	}
	answer, err := bufio.NewReader(gate).ReadString('\n')
	if err != nil {
		return errors.New("terok-gate is not answering; try again in a moment")
	}
	if answer = strings.TrimSuffix(answer, "\n"); answer != "yes" {
		return errors.New(answer)
	}
	return nil
}

// conversation is the gate's end of descriptor 3.
type conversation struct {
	conn    *os.File
	refused bool // the gate has refused to let pre-receive go on
	ended   chan struct{}
}

// converse begins a conversation with git's hooks. theirs is the hooks' end, for git's descriptor
// 3.
func converse(t *transaction) (c *conversation, theirs *os.File, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for git's hooks: %w", err)
	}
	c = &conversation{conn: ours, ended: make(chan struct{})}
	go c.listen(t)
	return c, theirs, nil
}

// listen answers the hooks. If refs have moved but the moves cannot be recorded, listen gives no
// answer: after any answer, git would report success to the client. Without one, the hook waits until
// the gate ends git.
func (c *conversation) listen(t *transaction) {
	defer close(c.ended)
	lines := bufio.NewReader(c.conn)
	for {
		state, said, err := hear(lines)
		if err != nil {
			return
		}

		var no error
		switch state {
		case "ask":
			no = t.received(strings.TrimSuffix(string(said), "\n"))
			c.refused = no != nil
		case "prepared":
			no = t.prepared(t.without(said))
		case "committed":
			if t.committed() != nil {
				return
			}
		case "aborted":
			t.aborted()
		}

		answer := "yes"
		if no != nil {
			answer = no.Error()
		}
		if _, err := io.WriteString(c.conn, answer+"\n"); err != nil {
			return
		}
	}
}

// hear reads a hook's message: the state, which is its first line, and the lines that follow.
func hear(lines *bufio.Reader) (state string, said moves, err error) {
	for {
		line, err := lines.ReadString('\n')
		switch {
		case err != nil:
			return "", nil, err
		case line == "\n":
			return state, said, nil
		case state == "":
			state = strings.TrimSuffix(line, "\n")
		default:
			said = append(said, line...)
		}
	}
}

// end waits until the hooks' messages have been read to the end. Call it when git, and all
// processes that git started, have ended.
func (c *conversation) end() {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Second)) // in case a process still holds the hooks' end
	<-c.ended
	c.conn.Close()
}
