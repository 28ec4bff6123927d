package dcf

import (
	"context"
	"sync"
	"time"
)

// outBuffer messages may be on their way from a handler to the socket beyond those
// that are out: the two then run side by side instead of taking turns.
const outBuffer = 16

// runStream runs the Stream of a call and returns what ends the call.
func (w *worker) runStream(c *call, began time.Time) answer {
	in, out := make(chan []byte), make(chan []byte, outBuffer)
	returned, sent := make(chan struct{}), make(chan struct{})
	s := &outputs{worker: w, call: c, began: began}
	w.mu.Lock()
	c.changed = sync.NewCond(&w.mu)
	w.mu.Unlock()
	go w.feed(c, in)
	go func() {
		s.drain(out, returned)
		close(sent)
	}()
	// It runs also where the handler ends its goroutine: the two must not stay behind.
	after := func() {
		close(returned)
		<-sent
		c.cancel()
		w.mu.Lock()
		c.inputs.ended = true // what still comes is not kept
		w.mu.Unlock()
	}
	return s.ending(callStream(w.function.Stream, c, in, out, after))
}

// callStream turns a panic into an error, and calls after in any case.
func callStream(
	stream func(context.Context, <-chan []byte, chan<- []byte) error,
	c *call, in <-chan []byte, out chan<- []byte, after func(),
) (err error) {
	returned := false
	defer func() {
		if !returned {
			err = caught(recover())
		}
		after()
	}()
	err = stream(c, in, out)
	returned = true
	return err
}
