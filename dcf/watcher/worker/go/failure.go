package dcf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Codes of the errors that a worker answers with.
const (
	codeHandlerError    = "handler_error"
	codeInvalidInput    = "invalid_input"
	codeClientGone      = "client_gone"
	codePayloadTooLarge = "payload_too_large"
)

// InvalidInput makes an error that says that the input is to blame: the caller
// sees 400 INVALID_ARGUMENT and this text. It may be wrapped.
func InvalidInput(format string, args ...any) error {
	return &invalidInput{fmt.Sprintf(format, args...)}
}

type invalidInput struct{ message string }

func (e *invalidInput) Error() string { return e.message }

// failure is an ERROR frame's payload.
type failure struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Traceback string `json:"traceback,omitempty"`
}

func (f failure) encode() []byte {
	encoded, _ := json.Marshal(f) // of texts: it cannot fail
	return encoded
}

// failureOf says in the caller's terms what a handler has returned or panicked
// with. What is the handler's own fault goes to the function's log.
func (w *worker) failureOf(c *call, err error) failure {
	if w.isCancelled(c) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return failure{Code: codeClientGone, Message: "cancelled while the handler ran"}
	}
	var refused *invalidInput
	if errors.As(err, &refused) {
		return failure{Code: codeInvalidInput, Message: err.Error()}
	}
	failed := failure{Code: codeHandlerError, Message: err.Error()}
	text := failed.Message
	var caught *panicError
	if errors.As(err, &caught) && caught.stack != "" {
		text += "\n\n" + caught.stack
		if w.hello.Debug {
			failed.Traceback = text
		}
	}
	fmt.Fprintf(os.Stderr, "invocation %s failed\n%s\n", c.invocationID, text)
	return failed
}

// tooLarge is the failure of an answer, or of a message of one.
func (w *worker) tooLarge(verb string, size int) error {
	return fmt.Errorf("the handler %s %d bytes; max_payload allows %d", verb, size, w.hello.MaxPayloadBytes)
}
