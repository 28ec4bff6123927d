package dcf

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
)

// panicError is what a handler has panicked with.
type panicError struct {
	message string
	stack   string
}

func (e *panicError) Error() string { return e.message }

// errExited is the failure of a handler that has ended its own goroutine.
var errExited = errors.New("runtime.Goexit was called")

// caught describes what recover has returned; to be called by the function that
// has called it, while the stack still is that of the panic.
func caught(value any) error {
	if value == nil {
		return errExited
	}
	return &panicError{message: fmt.Sprintf("panic: %v", value), stack: userStack()}
}

// userStack returns the stack of the panic from the frame that panicked to the
// user's first one. What is ours or the runtime's at its two ends helps nobody.
func userStack() string {
	program := make([]uintptr, 256)
	frames := runtime.CallersFrames(program[:runtime.Callers(1, program)])
	var steps []runtime.Frame
	for {
		step, more := frames.Next()
		switch {
		case step.Function == "runtime.gopanic":
			steps = steps[:0] // what came before is the way from the panic to here
		case len(steps) == 0 && isRuntime(step): // sigpanic, goPanicIndex and the like
		default:
			steps = append(steps, step)
		}
		if !more {
			break
		}
	}
	for number, step := range steps {
		if isEntry(step) {
			steps = steps[:number]
			break
		}
	}
	var text strings.Builder
	for _, step := range steps {
		fmt.Fprintf(&text, "%s(...)\n\t%s:%d\n", step.Function, step.File, step.Line)
	}
	return text.String()
}

func isRuntime(step runtime.Frame) bool { return strings.HasPrefix(step.Function, "runtime.") }

// isEntry says whether the user's code was called from here.
func isEntry(step runtime.Frame) bool {
	switch step.Function {
	case "dcf.callHandler", "dcf.callStream", "dcf.(*worker).init":
		return true
	}
	return strings.HasPrefix(step.Function, "dcf.Function.handler.") // an adapter of a form
}
