package dcf

// serveData takes what comes on the data socket. It never waits for a handler, nor
// for a write.
func (w *worker) serveData(frames *frameReader) {
	for {
		f, err := frames.next()
		if err == nil {
			err = w.takeData(f)
		}
		if err != nil {
			w.endOf(err)
		}
	}
}

func (w *worker) takeData(f frame) error {
	switch f.kind {
	case kindOpen:
		c, err := openCall(f.id, f.payload, w.info)
		if err != nil {
			return err
		}
		return w.takeOpen(c, f.flags)
	case kindData:
		return w.takePiece(f)
	default: // BATCH among them: this worker has not said that it takes batches
		return malformed("kind %d on the data socket", f.kind)
	}
}

func (w *worker) takeOpen(c *call, flags byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.id == 0 || c.id&meshBit != 0 || w.calls[c.id] != nil {
		return malformed("an OPEN of id %d, which is taken or none", c.id)
	}
	w.newest = c.id
	w.calls[c.id] = c
	switch {
	case w.early[c.id]:
		delete(w.early, c.id)
		w.giveUp(c)
	case flags&flagStream != 0:
		w.openInputs(c)
	case flags&flagLast != 0:
		w.line.push(c)
	}
	w.callForHelp()
	return nil
}

// takePiece takes more of a call's input.
func (w *worker) takePiece(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls[f.id]
	if c == nil { // its answer and this frame crossed
		return nil
	}
	switch {
	case c.inputs != nil:
		w.takeInput(c, f)
	case c.whole:
		return malformed("DATA of call %d after its last", f.id)
	default:
		c.pieces = append(c.pieces, f.payload)
		if f.flags&flagLast != 0 {
			w.line.push(c)
		} else if len(f.payload) > 0 {
			w.outbox.frames = appendCredit(w.outbox.frames, f.id, len(f.payload))
		}
	}
	w.callForHelp()
	return nil
}
