package dcf

import "sync"

// maxBigAnswers are on their way at once, each as far as its reader has taken it.
// More, and handlers wait before they return: memory is bounded.
const maxBigAnswers = 32

// startBig has an answer of several frames sent while the call's slot is free. The
// lock is held, except while it waits.
func (w *worker) startBig(c *call, a answer) {
	for w.bigAnswers == maxBigAnswers && !c.cancelled {
		w.callForHelp()
		w.bigChanged.Wait()
	}
	w.bigAnswers++
	c.changed = sync.NewCond(&w.mu)
	go w.sendBig(c, a)
}

// sendBig sends an answer piece by piece, as the call's credit allows.
func (w *worker) sendBig(c *call, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	body := a.body
	forEachPiece(body, pieceBytes, func(piece []byte, last bool) bool {
		for c.credit < len(piece) && !c.cancelled {
			w.flush()
			if c.credit < len(piece) && !c.cancelled { // still so: flush lets go of the lock
				c.changed.Wait()
			}
		}
		if c.cancelled {
			w.answerWith(c, errorOf(failure{Code: codeClientGone, Message: "cancelled while the answer was sent"}))
			return false
		}
		c.credit -= len(piece)
		a.body = piece
		if last {
			a.flags = flagLast
			w.answerWith(c, a)
			return false
		}
		a.flags = 0
		w.outbox.frames = a.appendTo(w.outbox.frames, c.id)
		a.kind = kindData
		return true
	})
	w.bigAnswers--
	w.bigChanged.Signal()
	w.flush()
}
