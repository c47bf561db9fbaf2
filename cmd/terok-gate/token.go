// Reads a token from standard input, since all users of the machine can see arguments.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"terok-gate-hook/store"
)

// readToken reads a token from standard input. At a terminal, it asks for one.
func readToken() (store.Token, error) {
	const limit = 4096
	var in io.Reader = os.Stdin
	if isTerminal(os.Stdin) {
		line, err := askUnseen(os.Stdin, "Token: ")
		if err != nil {
			return "", fmt.Errorf("ask for a token: %w", err)
		}
		in = bytes.NewReader(line)
	}

	content, err := io.ReadAll(io.LimitReader(in, limit+1))
	token := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		return "", fmt.Errorf("read a token from standard input: %w", err)
	case len(content) > limit:
		return "", fmt.Errorf("read a token from standard input: more than %d bytes", limit)
	case token == "":
		return "", errors.New("read a token from standard input: there is none")
	}
	return store.Token(token), nil
}
