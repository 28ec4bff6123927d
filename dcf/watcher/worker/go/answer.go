package dcf

import (
	"encoding/binary"
	"math"
	"time"
)

// answer is what ends a call, or the whole of a large one: a frame to be packed.
type answer struct {
	took     time.Duration // in the handler; of a stream, until its first message
	kind     byte
	flags    byte
	prefix   [replyPrefixBytes]byte // of a REPLY
	metadata []byte                 // likewise
	body     []byte
}

func (a *answer) appendTo(out []byte, id uint32) []byte {
	if a.kind == kindReply {
		return appendFrame(out, id, a.kind, a.flags, a.prefix[:], a.metadata, a.body)
	}
	return appendFrame(out, id, a.kind, a.flags, a.body)
}

// replyOf makes a REPLY of one frame, or what sendBig cuts in several.
func replyOf(reply Reply, took time.Duration) answer {
	a := answer{kind: kindReply, flags: flagLast, took: took, body: reply.Body}
	length := 0
	if a.isBig() {
		length = len(reply.Body)
	}
	a.metadata = reply.encodeMetadata(length)
	a.setPrefix(reply.content)
	return a
}

func (a *answer) setPrefix(content byte) {
	micros := a.took.Microseconds()
	if micros > math.MaxUint32 {
		micros = math.MaxUint32
	}
	// Between the two are what the watcher fills in.
	binary.BigEndian.PutUint32(a.prefix[0:], uint32(micros))
	a.prefix[10] = content
	binary.BigEndian.PutUint32(a.prefix[11:], uint32(len(a.metadata)))
}

func (a *answer) isBig() bool { return a.kind == kindReply && len(a.body) > pieceBytes }

// failed makes the ERROR of what a handler has returned or panicked with.
func (w *worker) failed(c *call, err error) answer {
	return errorOf(w.failureOf(c, err))
}

func errorOf(failed failure) answer {
	return answer{kind: kindError, flags: flagLast, body: failed.encode()}
}

// finish takes what the handler has come to: its slot is free. The lock is held.
func (w *worker) finish(c *call, a answer) {
	if a.isBig() {
		w.startBig(c, a)
	} else {
		w.answerWith(c, a)
	}
	w.running--
}

// answerWith ends the call, unless that was done already. The lock is held.
func (w *worker) answerWith(c *call, a answer) {
	if c.answered {
		return
	}
	c.answered = true
	delete(w.calls, c.id)
	w.outbox.frames = a.appendTo(w.outbox.frames, c.id)
}
