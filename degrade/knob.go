package degrade

import (
	"context"
	"fmt"
)

// A Knob is a value that depends on the level: a page size, a search depth, how
// long an answer may be old. It is safe for concurrent use.
type Knob[T any] struct {
	sw     *Switch
	values []T
}

// NewKnob returns a Knob with one value for each level, from Full up; levels
// beyond have the last. It panics without values: a mistake in the source.
func NewKnob[T any](s *Switch, values ...T) *Knob[T] {
	if len(values) == 0 {
		panic(fmt.Sprintf("degrade: NewKnob[%T]: no values", *new(T)))
	}
	return &Knob[T]{s, values}
}

// Get returns the value at this moment.
func (k *Knob[T]) Get() T { return k.at(k.sw.now.Load().level) }

// GetFor returns the value for the request that ctx belongs to, which stays the
// same while the request lasts.
func (k *Knob[T]) GetFor(ctx context.Context) T {
	if p := k.sw.pinned(ctx); p != nil {
		return k.at(p.sn.level)
	}
	return k.Get()
}

func (k *Knob[T]) at(l Level) T { return k.values[min(int(l), len(k.values)-1)] }
