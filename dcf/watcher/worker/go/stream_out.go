package dcf

import "time"

// outputs sends what a Stream's handler gives.
type outputs struct {
	worker  *worker
	call    *call
	began   time.Time
	started bool  // the REPLY is out, or in the outbox
	err     error // why no more is sent
}

// drain sends messages until the handler has returned and none is left. Where the
// call is cancelled they are dropped: the handler must not wait for ever.
func (o *outputs) drain(out <-chan []byte, returned <-chan struct{}) {
	for {
		select {
		case body, ok := <-out:
			if !ok { // the handler has closed it, which is not its part
				<-returned
				return
			}
			o.send(body)
		case <-returned:
			for {
				select {
				case body, ok := <-out:
					if !ok {
						return
					}
					o.send(body)
				default:
					return
				}
			}
		}
	}
}

// send sends one message, in pieces, as the call's credit allows.
func (o *outputs) send(body []byte) {
	if o.err != nil {
		return
	}
	w, c := o.worker, o.call
	if len(body) > w.hello.MaxPayloadBytes {
		o.err = w.tooLarge("sent", len(body))
		c.cancel()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	forEachPiece(body, streamPieceBytes, func(piece []byte, last bool) bool {
		for o.started && c.credit <= 0 && !c.cancelled {
			w.flush()
			if c.credit <= 0 && !c.cancelled { // still so: flush lets go of the lock
				c.changed.Wait()
			}
		}
		if c.answered || c.cancelled {
			return false
		}
		if !o.started {
			o.start()
		}
		var flags byte
		if last {
			flags = flagEnd
		}
		c.credit -= len(piece) + frameCostBytes
		w.outbox.frames = appendFrame(w.outbox.frames, c.id, kindData, flags|contentBytes<<contentShift, piece)
		w.flushChunk()
		return true
	})
}

// start puts the REPLY before the first message. From now on the gateway looks that
// the stream does not stand still, instead of a deadline. The lock is held.
func (o *outputs) start() {
	o.started = true
	o.call.dropDeadline()
	o.call.credit -= windowBytes - streamWindowBytes
	head := o.head()
	o.worker.outbox.frames = head.appendTo(o.worker.outbox.frames, o.call.id)
}

func (o *outputs) head() answer {
	head := answer{kind: kindReply, flags: flagStream, took: time.Since(o.began)}
	head.setPrefix(contentBytes)
	return head
}

// ending is what ends the call once the handler has returned err.
func (o *outputs) ending(err error) answer {
	if o.err != nil {
		err = o.err
	}
	switch {
	case err != nil:
		return o.worker.failed(o.call, err)
	case o.worker.isCancelled(o.call):
		return errorOf(failure{Code: codeClientGone, Message: "cancelled while the answer was sent"})
	case o.started:
		return answer{kind: kindData, flags: flagLast}
	default: // no message at all
		empty := o.head()
		empty.flags |= flagLast
		return empty
	}
}
