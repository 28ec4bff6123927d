// Package dcf is what a Go function of DCF imports.
//
// A function is a package with a Handler, a Stream, or both:
//
//	package function
//
//	import "dcf"
//
//	func Handler(req dcf.Request) (dcf.Reply, error) {
//		var question Question
//		if err := req.JSON(&question); err != nil {
//			return dcf.Reply{}, err // the caller sees 400
//		}
//		return dcf.JSON(answer(req.Context, question))
//	}
//
// Handler may also be func(dcf.Request) string, func(dcf.Request) (string, error)
// or func(dcf.Request) ([]byte, error). Stream takes inputs and gives answers
// one by one:
//
//	func Stream(ctx context.Context, in <-chan []byte, out chan<- []byte) error {
//		for message := range in {
//			out <- answer(message)
//		}
//		return ctx.Err()
//	}
//
// An Init() error, where there is one, runs once before the first call: load
// the model there. Calls run at once, each in a goroutine, as many as the
// function's `concurrency` says, or 100.
//
// A handler that panics fails its own call alone. A panic in a goroutine that
// the handler has started ends the process, as does what Go calls a fatal error
// (a map that two goroutines write to): Go gives nobody a way to catch it. The
// calls in the process then fail with replica_lost, and the watcher starts
// another one.
//
// The package is a worker in the sense of proto/worker.md: frame.go and
// frame_reader.go are its wire format, serve.go and control.go take what comes,
// work.go decides what runs, answer.go and outbox.go see to what goes back.
package dcf
