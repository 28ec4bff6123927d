package dcf

import "time"

const (
	// slowHandler is how long a handler runs that is worth a write of its own.
	slowHandler = 200 * time.Microsecond
	// cautiousCalls follow a slow one with their answers written before the next
	// handler runs: where all processors compute, no help comes for up to 10 ms.
	cautiousCalls = 1000
)

// work runs the calls that wait and writes the answers that wait, until nothing
// does. For fast handlers one goroutine does it all, and their answers leave
// together. Before it runs a handler it sees to it that another one is coming for
// what still waits. Where the handler is fast, that one finds nothing left to do;
// where it takes its time, the other one goes on in its place.
func (w *worker) work() {
	var c *call
	defer func() {
		if c != nil { // its handler has ended this goroutine
			w.afterGoexit(c)
		}
	}()
	w.mu.Lock()
	w.helpComing = false
	w.flush() // left by somebody whose next handler takes its time
	for {
		if w.cautious > 0 {
			w.flush()
		}
		if c = w.startNext(); c != nil {
			w.callForHelp()
			w.mu.Unlock()
			answer := w.runCall(c)
			w.mu.Lock()
			w.finish(c, answer)
			w.noteTime(answer.took)
		} else if !w.flush() {
			break
		}
	}
	w.mu.Unlock()
}

// startNext takes the next call whose handler may run now, or nil. The lock is
// held.
func (w *worker) startNext() *call {
	if w.running == w.slots {
		return nil
	}
	c := w.line.pop()
	if c != nil {
		c.started = true
		w.running++
	}
	return c
}

// callForHelp sees to it that somebody comes to what waits: answers that nobody
// writes, or calls that may run. The lock is held.
func (w *worker) callForHelp() {
	if w.helpComing {
		return
	}
	mayRun := !w.line.empty() && w.running < w.slots
	mustWrite := len(w.outbox.frames) > 0 && !w.outbox.writing
	if mayRun || mustWrite {
		w.helpComing = true
		go w.work()
	}
}

// noteTime learns how slow handlers are. The lock is held.
func (w *worker) noteTime(took time.Duration) {
	if took > slowHandler {
		w.cautious = cautiousCalls
	} else if w.cautious > 0 {
		w.cautious--
	}
}

func (w *worker) afterGoexit(c *call) {
	answer := w.failed(c, errExited)
	c.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finish(c, answer)
	w.callForHelp()
}
