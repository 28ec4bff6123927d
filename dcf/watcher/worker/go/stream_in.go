package dcf

// inputs are the messages of a stream of input that the handler has not taken.
// Touched only with the worker's lock held.
type inputs struct {
	messages []*message
	pieces   [][]byte      // of the message that is still coming
	size     int           // of those
	owed     int           // credit for what was taken, not yet given
	ended    bool          // no more comes, or is wanted
	came     chan struct{} // has something whenever there is news of messages or ended
}

func newInputs() *inputs {
	return &inputs{came: make(chan struct{}, 1)}
}

// tell wakes who waits for input.
func (in *inputs) tell() {
	select {
	case in.came <- struct{}{}:
	default: // it has not looked since the last time
	}
}

type message struct {
	body []byte
	cost int // of its last frame, which is credited when the handler has taken it
}

// openInputs takes a call whose input is a stream: from here on it will not be sent
// elsewhere, so its sender may begin. The lock is held.
func (w *worker) openInputs(c *call) {
	if w.function.Stream == nil {
		w.answerWith(c, errorOf(failure{Code: codeInvalidInput, Message: "the function takes one input a call: it has no Stream"}))
		return
	}
	c.pieces = nil
	c.inputs = newInputs()
	c.inputs.owed = streamWindowBytes
	w.giveCredit(c)
	w.line.push(c)
}

// takeInput takes one DATA frame of a stream. The lock is held.
func (w *worker) takeInput(c *call, f frame) {
	in := c.inputs
	if in.ended { // the handler has returned
		return
	}
	in.size += len(f.payload)
	if in.size > w.hello.MaxPayloadBytes {
		w.refuseMessage(c)
		return
	}
	isEnd, isLast := f.flags&flagEnd != 0, f.flags&flagLast != 0
	if len(f.payload) > 0 || isEnd {
		in.pieces = append(in.pieces, f.payload)
	}
	cost := len(f.payload) + frameCostBytes
	switch {
	case isEnd:
		in.messages = append(in.messages, &message{join(in.pieces), cost})
		in.pieces, in.size = nil, 0
	case !isLast: // the handler cannot take it before the rest has come
		in.owed += cost
		w.giveCredit(c)
	}
	in.ended = isLast
	in.tell()
}

func (w *worker) refuseMessage(c *call) {
	w.answerWith(c, errorOf(failure{Code: codePayloadTooLarge, Message: "a message is larger than max_payload allows"}))
	w.giveUp(c)
}

// giveCredit pays what is owed. The lock is held.
func (w *worker) giveCredit(c *call) {
	w.outbox.frames = appendCredit(w.outbox.frames, c.id, c.inputs.owed)
	c.inputs.owed = 0
}

// feed hands the messages to the handler, until there are no more, or nobody wants
// them: the call is cancelled, or the handler has returned.
func (w *worker) feed(c *call, in chan<- []byte) {
	defer close(in)
	over := c.Done()
	for {
		next, ended := w.nextMessage(c)
		switch {
		case next != nil:
			select {
			case in <- next.body:
				w.noteTaken(c, next)
			case <-over:
				return
			}
		case ended:
			return
		default:
			select {
			case <-c.inputs.came:
			case <-over:
				return
			}
		}
	}
}

// nextMessage takes the next message, if there is one already; ended where none
// comes any more.
func (w *worker) nextMessage(c *call) (next *message, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := c.inputs
	if len(in.messages) == 0 {
		return nil, in.ended
	}
	next = in.messages[0]
	in.messages[0] = nil
	in.messages = in.messages[1:]
	return next, false
}

// noteTaken pays for a message that the handler has taken; for small ones not each
// by itself, unless its sender may be waiting for it.
func (w *worker) noteTaken(c *call, taken *message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := c.inputs
	in.owed += taken.cost
	if !in.ended && (len(in.messages) == 0 || in.owed >= streamWindowBytes/4) {
		w.giveCredit(c)
		w.callForHelp()
	}
}
