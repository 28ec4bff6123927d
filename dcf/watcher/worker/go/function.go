package dcf

import (
	"context"
	"fmt"
)

// Function is what the generated main package hands over.
type Function struct {
	// Handler takes single inputs: one of the forms that the package's text names,
	// or nil.
	Handler any
	// Stream takes inputs and gives answers one by one; or nil. Where there is no
	// Handler, a single input is a stream of one.
	//
	// `in` is closed at the end of the input, and when ctx ends. What was sent to
	// `out` before the return is delivered, unless ctx has ended; a message belongs to
	// DCF once it was sent. Do not close `out`, and let no goroutine send to it after
	// the return, for nobody takes it.
	Stream func(ctx context.Context, in <-chan []byte, out chan<- []byte) error
	// Init runs once, before the first call; or nil.
	Init func() error
}

// handler is the form that the worker calls.
type handler func(Request) (Reply, error)

// handler returns the function's Handler in that form, nil where it has none.
func (f Function) handler() (handler, error) {
	switch handle := f.Handler.(type) {
	case nil:
		if f.Stream == nil {
			return nil, fmt.Errorf("the function has neither a Handler nor a Stream")
		}
		return nil, nil
	case func(Request) (Reply, error):
		return handle, nil
	case func(Request) string:
		return func(request Request) (Reply, error) { return Text(handle(request)), nil }, nil
	case func(Request) (string, error):
		return func(request Request) (Reply, error) {
			text, err := handle(request)
			return Text(text), err
		}, nil
	case func(Request) ([]byte, error):
		return func(request Request) (Reply, error) {
			body, err := handle(request)
			return Bytes(body), err
		}, nil
	default:
		return nil, fmt.Errorf("the Handler is a %T, which is none of the forms that a handler may have", handle)
	}
}
