package dcf

import (
	"context"
	"encoding/json"
	"unicode/utf8"
)

// Request is one invocation, as the handler sees it.
type Request struct {
	// Input is the body. It is the handler's own: it may be kept and changed.
	Input []byte
	// Info says where the handler runs.
	Info Info
	// Metadata is what the caller sent beside the body.
	Metadata Metadata
	// Context has the caller's deadline. It ends when nobody waits for the answer
	// any more, and when the handler has returned.
	Context context.Context
	// InvocationID is the call's id, the same in every log.
	InvocationID string
}

// Info is what a handler may know of where it runs.
type Info struct {
	Function string
	Replica  string
}

// Text returns the input as text; what is not UTF-8 in it stays as it is.
func (r Request) Text() string {
	return string(r.Input)
}

// JSON decodes the input into v. Its error, returned by the handler, is the
// caller's 400.
func (r Request) JSON(v any) error {
	// encoding/json would put replacement characters in silence.
	if !utf8.Valid(r.Input) {
		return InvalidInput("the input is not JSON: it is not UTF-8")
	}
	if err := json.Unmarshal(r.Input, v); err != nil {
		return InvalidInput("the input is not JSON as expected: %v", err)
	}
	return nil
}

// RequestOf returns the call that ctx belongs to, without its input: for a
// Stream, and for code that was handed nothing but a context. Where ctx is of no
// call, the request has nothing but ctx.
func RequestOf(ctx context.Context) Request {
	request := Request{Context: ctx}
	if c := callOf(ctx); c != nil {
		request.Info = c.info
		request.Metadata = Metadata{&c.metadata}
		request.InvocationID = c.invocationID
	}
	return request
}
