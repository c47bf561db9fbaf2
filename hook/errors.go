// Errors of a stage, with one text to print and one for the log.
//
// The container's author can choose where a hook's output goes: crun appends it to any
// file of the host that the annotation run.oci.hooks.stderr names, and before podman
// 4.6 an image can carry that annotation (seen with podman 4.3.1 and crun 1.8.1: a
// start-up file of a shell, and code that ran on the host). No quoting is safe in a
// file whose reader is not known. So an error has two texts: one to print, made of
// constants and reasons, and one for the log, which has the values too.

package hook

import (
	"errors"
	"fmt"
	"syscall"

	"terok-gate-hook/store"
)

// ErrRefused is in the chain of errors that say that the container may not have
// what its annotations ask for.
var ErrRefused = errors.New("refused")

// Error is why a stage failed, fit to be printed.
type Error struct {
	printed text
	full    error
}

// text may be printed. A constant becomes a text by itself, but any other string must
// be converted: that is done only to settings, to a container id that was checked, to
// numbers of ours and to what the kernel calls an error.
type text string

// Error returns the text to print. It says why in words of ours and the kernel's, and
// holds nothing that an annotation, an image, a state or a
// configuration says.
func (e *Error) Error() string { return string(e.printed) }

// Detail returns the text for the log, which may hold anything.
func (e *Error) Detail() string { return e.full.Error() }

// Is looks into the chain of the full error. There is no Unwrap, which would hand
// that out.
func (e *Error) Is(target error) bool { return errors.Is(e.full, target) }

// Detail returns what the log gets of an error, be it a stage's or another one.
func Detail(err error) string { return full(err).Error() }

func full(err error) error {
	if e, ok := err.(*Error); ok {
		return e.full
	}
	return err
}

// failure returns an error whose text for the log is the printed one.
func failure(what text) error { return &Error{what, errors.New(string(what))} }

// because returns an error that says what failed, and why as far as that may be printed.
func because(what text, err error) error {
	return &Error{what + ": " + reason(err), fmt.Errorf("%s: %w", what, full(err))}
}

// instead returns an error that prints as this text; only the log has the rest.
func instead(printed text, err error) error { return &Error{printed, full(err)} }

// refused says that the container may not have what it asks for.
func refused(err error) error {
	return &Error{"refused: " + reason(err), fmt.Errorf("%w: %w", ErrRefused, full(err))}
}

// printableError returns the error in a form that may be printed.
func printableError(err error) error {
	if _, ok := err.(*Error); ok || err == nil {
		return err
	}
	return instead(reason(err), err)
}

// reason is the part of an error that may be printed.
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
