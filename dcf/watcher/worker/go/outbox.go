package dcf

import (
	"os"
	"time"
)

const (
	// keepFor is the longest that a chunk of a stream waits for the next one.
	keepFor = 2 * time.Millisecond
	// keepBytes are written without waiting for more.
	keepBytes = 64 << 10
	// bufferBytes is the largest buffer that is kept for the next answers.
	bufferBytes = 1 << 20
)

// outbox holds the frames that are to leave by the data socket. Touched only with
// the worker's lock held.
//
// Whoever has put something in either writes it himself (flush), or sees to it that
// somebody else comes to do so (worker.callForHelp).
type outbox struct {
	frames    []byte
	spare     []byte // the buffer that was written last
	writing   bool   // somebody does, and takes what comes meanwhile as well
	kept      bool   // a timer will flush
	timer     *time.Timer
	flushedAt time.Time // when a stream's chunk last made it leave
}

// flush writes what waits, and says whether there was anything. It lets go of the
// lock while it writes.
func (w *worker) flush() bool {
	o := &w.outbox
	if o.writing || len(o.frames) == 0 {
		return false
	}
	o.writing = true
	for len(o.frames) > 0 {
		data := o.frames
		o.frames, o.spare = o.spare[:0], nil
		w.mu.Unlock()
		_, err := w.data.Write(data)
		if err != nil {
			os.Exit(exitGone) // the watcher has gone, and with it who wanted an answer
		}
		w.mu.Lock()
		if cap(data) <= bufferBytes {
			o.spare = data
		}
	}
	o.writing = false
	return true
}

// flushChunk writes a slow stream's chunk at once, and a fast one's with those that
// follow within keepFor. The lock is held, except while it writes.
func (w *worker) flushChunk() {
	o := &w.outbox
	if now := time.Now(); now.Sub(o.flushedAt) > keepFor || len(o.frames) > keepBytes {
		o.flushedAt = now
		w.flush()
	} else if !o.kept {
		o.kept = true
		if o.timer == nil {
			o.timer = time.AfterFunc(keepFor, w.flushKept)
		} else {
			o.timer.Reset(keepFor)
		}
	}
}

func (w *worker) flushKept() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outbox.kept = false
	w.flush()
}

// post puts frames in the outbox from a goroutine that must not wait for a write.
// The lock is free.
func (w *worker) post(appendTo func(out []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outbox.frames = appendTo(w.outbox.frames)
	w.callForHelp()
}
