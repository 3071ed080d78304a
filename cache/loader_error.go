package cache

import (
	"errors"
	"fmt"
)

// ErrNotFound is what a load returns when the source has no such thing. Its
// answer is kept for [LoaderConfig.NotFoundTTL], and [Loader.Get] returns an
// error that is ErrNotFound to [errors.Is].
var ErrNotFound = errors.New("cache: not found")

// A LoadPanicError is what the callers of a load are given that panicked.
type LoadPanicError struct {
	Value any    // what it panicked with
	Stack []byte // where
}

// Error returns the value and the stack.
func (e *LoadPanicError) Error() string {
	return fmt.Sprintf("cache: load panicked: %v\n\n%s", e.Value, e.Stack)
}

// Unwrap returns the value if it is an error.
func (e *LoadPanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// loaderNotFound is an error that is an answer, by what LoaderConfig.NotFound
// says. It is ErrNotFound too, so that callers need to know only that.
type loaderNotFound struct{ error }

func (e loaderNotFound) Is(target error) bool { return target == ErrNotFound }
func (e loaderNotFound) Unwrap() error        { return e.error }

// loaderExited is what callers are given whose load called runtime.Goexit.
type loaderExited struct{}

func (loaderExited) Error() string { return "cache: load ended its goroutine (runtime.Goexit)" }
