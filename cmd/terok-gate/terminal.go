// Terminals: colours, and reading a line without showing it.

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
)

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// paint colours the text if it goes to a terminal whose user wants colours (see
// no-color.org).
func paint(w *os.File, colour, text string) string {
	if colour == "" || !isTerminal(w) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return colour + text + "\x1b[0m"
}

// askUnseen asks for a line that the terminal does not show as it is typed. Unlike
// golang.org/x/term, it turns the echo on again even if a signal ends this process.
func askUnseen(terminal *os.File, question string) (line []byte, err error) {
	fd := int(terminal.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}

	restore := func() {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, before)
		fmt.Fprintln(os.Stderr) // the newline that was typed was not shown
	}

	// Signals that this process ignores, as a shell's background jobs do, are left out. Below, the
	// process ends itself with the signal that it got, and an ignored signal would not end it.
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	signals = slices.DeleteFunc(signals, signal.Ignored)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, signals...)
	defer signal.Stop(ended)
	go func() {
		by := <-ended
		restore()
		signal.Reset(by)
		_ = syscall.Kill(os.Getpid(), by.(syscall.Signal))
	}()

	unseen := *before
	unseen.Lflag &^= unix.ECHO
	unseen.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &unseen); err != nil {
		return nil, err
	}
	defer restore()

	fmt.Fprint(os.Stderr, question)
	line = make([]byte, 4096) // no line is longer (termios(3))
	n, err := terminal.Read(line)
	if errors.Is(err, io.EOF) {
		err = nil // nothing was typed
	}
	return line[:n], err
}
