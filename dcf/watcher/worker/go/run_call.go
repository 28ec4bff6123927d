package dcf

import "time"

// runCall runs the handler of a call and returns what ends the call.
func (w *worker) runCall(c *call) answer {
	began := time.Now()
	input := join(c.pieces) // whole: nobody else touches the pieces any more
	c.pieces = nil
	if c.inputs != nil {
		return w.runStream(c, began)
	}
	if w.handle == nil { // one input is a stream of one message
		c.inputs = newInputs()
		c.inputs.messages, c.inputs.ended = []*message{{body: input}}, true
		return w.runStream(c, began)
	}
	request := Request{
		Input:        input,
		Info:         c.info,
		Metadata:     Metadata{&c.metadata},
		Context:      c,
		InvocationID: c.invocationID,
	}
	reply, err := callHandler(w.handle, request)
	took := time.Since(began)
	if err == nil && len(reply.Body) > w.hello.MaxPayloadBytes {
		err = w.tooLarge("returned", len(reply.Body))
	}
	var a answer
	if err != nil {
		a = w.failed(c, err)
		a.took = took
	} else {
		a = replyOf(reply, took)
	}
	c.cancel() // the goroutines that the handler has left behind
	return a
}

// callHandler turns a panic into an error.
func callHandler(handle handler, request Request) (reply Reply, err error) {
	returned := false
	defer func() {
		if !returned {
			err = caught(recover())
		}
	}()
	reply, err = handle(request)
	returned = true
	return reply, err
}
