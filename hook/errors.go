// Errors of a stage, with one text to print and one for the log.
//
// The container's author can choose where a hook's output goes: crun appends it to any
// file of the host that the annotation run.oci.hooks.stderr names, and before podman
// 4.6 an image can carry that annotation. (With podman 4.3.1 and crun 1.8.1, a hook's
// error could be appended to a shell's start-up file in this way, and run code on the
// host.) No quoting is safe in a file whose reader is unknown. So an error has two texts:
// one to print, made of constants and reasons, and one for the log, which has the values
// too.

package hook

import (
	"errors"
	"fmt"
	"syscall"

	"terok-gate-hook/store"
)

// ErrRefused is wrapped by an error that says that the container may not have what its
// annotations ask for.
var ErrRefused = errors.New("refused")

// Error says why a stage failed, in words that may be printed.
type Error struct {
	printed text
	full    error
}

// text is a string that may be printed. A constant string is a text without a conversion; any other
// string needs one. Only settings, a checked container id, our own words and numbers, and the kernel's
// names of errors are converted.
type text string

// Error returns the text to print. It is made of our words and the kernel's, and holds
// nothing from an annotation, an image, a state or a configuration.
func (e *Error) Error() string { return string(e.printed) }

// Detail returns the text for the log, which may hold anything.
func (e *Error) Detail() string { return e.full.Error() }

// Is reports whether target is in the chain of the full error. There is no Unwrap, which
// would give the full error away.
func (e *Error) Is(target error) bool { return errors.Is(e.full, target) }

// Detail returns the text of any error, a stage's or another one, for the log.
func Detail(err error) string { return full(err).Error() }

func full(err error) error {
	if e, ok := err.(*Error); ok {
		return e.full
	}
	return err
}

// failure returns an error whose text for the log is the printed one.
func failure(what text) error { return &Error{what, errors.New(string(what))} }

// because returns an error that says what failed and, as far as may be printed, why.
func because(what text, err error) error {
	return &Error{what + ": " + reason(err), fmt.Errorf("%s: %w", what, full(err))}
}

// instead returns an error that prints this text in place of err, which only the log has.
func instead(printed text, err error) error { return &Error{printed, full(err)} }

// refused returns an error wrapping [ErrRefused].
func refused(err error) error {
	return &Error{"refused: " + reason(err), fmt.Errorf("%w: %w", ErrRefused, full(err))}
}

// printableError returns the error as an [Error].
func printableError(err error) error {
	if _, ok := err.(*Error); ok || err == nil {
		return err
	}
	return instead(reason(err), err)
}

// reason returns the part of an error that may be printed.
func reason(err error) text {
	var known *Error
	var held *store.HeldError
	var errno syscall.Errno
	switch {
	case errors.As(err, &known):
		return known.printed
	case errors.As(err, &held):
		return text(held.Holder())
	case errors.As(err, &errno):
		return text(errno.Error())
	}

	for _, known := range []error{store.ErrCorrupt, store.ErrEnded, store.ErrUnseen} {
		if errors.Is(err, known) {
			return text(known.Error())
		}
	}
	return "the log says why"
}
