package dcf

import "os"

// serveControl takes what must arrive whatever the data socket is at.
func (w *worker) serveControl() {
	frames := newFrameReader(w.control)
	for {
		f, err := frames.next()
		if err == nil {
			err = w.takeControl(f)
		}
		if err != nil {
			w.endOf(err)
		}
	}
}

func (w *worker) takeControl(f frame) error {
	switch {
	case f.kind == kindShutdown:
		os.Exit(exitGone)
	case f.id&meshBit != 0:
		return w.takeMesh(f)
	case f.kind == kindCancel:
		w.takeCancel(f.id)
	case f.kind == kindCredit:
		return w.takeCredit(f)
	default:
		return malformed("kind %d on the control socket", f.kind)
	}
	return nil
}

func (w *worker) takeCredit(f frame) error {
	size, err := f.credit()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.calls[f.id]; c != nil {
		c.credit += size
		c.wake()
	}
	return nil
}

func (w *worker) takeCancel(id uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.calls[id]; c != nil {
		w.giveUp(c)
		w.callForHelp()
	} else if w.isAhead(id) {
		w.early[id] = true
	}
}

// isAhead says whether a call of that id is still to come; else it has been
// answered. Ids grow, and begin again at 1 after the last one.
func (w *worker) isAhead(id uint32) bool {
	distance := (id - w.newest) &^ meshBit
	return 0 < distance && distance < meshBit/2
}

// giveUp lets everybody know that nobody waits for the call any more. One that has
// not started is answered here and never runs. The lock is held.
func (w *worker) giveUp(c *call) {
	c.cancelled = true
	if !c.started {
		w.answerWith(c, errorOf(failure{Code: codeClientGone, Message: "cancelled before the handler started"}))
	}
	c.cancel()
	c.wake()
	w.bigChanged.Broadcast()
}

func (w *worker) isCancelled(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.cancelled
}
