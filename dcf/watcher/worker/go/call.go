package dcf

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// call is one invocation, from its OPEN frame to the last frame of its answer. It
// is the handler's context as well.
type call struct {
	callContext

	id           uint32
	info         Info
	invocationID string
	metadata     lazyMetadata

	// The worker's lock guards what follows.

	pieces    [][]byte // of the input that has come; nil once it was taken
	whole     bool     // all of its input has come, or it is a stream
	next      *call    // in the line of those that wait to run
	started   bool     // its handler runs, or has run
	cancelled bool     // nobody waits for the answer
	answered  bool     // the last frame of its answer is in the outbox
	credit    int      // bytes of its answer that may be sent
	inputs    *inputs  // of a call whose handler takes a stream
	// changed is there where an answer may have to wait, for credit or a cancel.
	changed *sync.Cond
}

type callKey struct{}

// Value lets callOf find the call in whatever was derived from its context.
func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return nil
}

// callOf returns the call on whose behalf code with this context runs, or nil.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// openCall reads the payload of an OPEN frame.
func openCall(id uint32, payload []byte, info Info) (*call, error) {
	if len(payload) < openPrefixBytes {
		return nil, malformed("an OPEN frame of %d bytes", len(payload))
	}
	deadlineMS := binary.BigEndian.Uint32(payload)
	idEnd := openPrefixBytes + int(payload[4])
	headEnd := idEnd + int(binary.BigEndian.Uint32(payload[5:]))
	if headEnd > len(payload) {
		return nil, malformed("an OPEN frame of %d bytes, whose head alone has %d", len(payload), headEnd)
	}
	// A copy, for whoever keeps the metadata shall not keep the input.
	head := string(payload[openPrefixBytes:headEnd])
	c := &call{id: id, info: info, credit: windowBytes}
	c.invocationID, c.metadata.raw = head[:payload[4]], head[payload[4]:]
	c.pieces = [][]byte{payload[headEnd:]}
	if deadlineMS != 0 {
		c.deadline = time.Now().Add(time.Duration(deadlineMS) * time.Millisecond)
	}
	return c, nil
}

// wake lets who sends the answer look again. The worker's lock is held.
func (c *call) wake() {
	if c.changed != nil {
		c.changed.Broadcast()
	}
}

// join returns the pieces as one slice, without a copy where there is one piece.
func join(pieces [][]byte) []byte {
	if len(pieces) == 1 {
		return pieces[0]
	}
	size := 0
	for _, piece := range pieces {
		size += len(piece)
	}
	whole := make([]byte, 0, size)
	for _, piece := range pieces {
		whole = append(whole, piece...)
	}
	return whole
}
