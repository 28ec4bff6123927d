package dcf

import (
	"context"
	"encoding/binary"
	"encoding/json"
)

// meshCall is a call that a handler makes. The worker's lock guards it until done is
// closed.
type meshCall struct {
	id       uint32
	head     []byte        // of its OPEN: the prefix and the metadata
	credit   int           // bytes of its input that may be sent
	credited chan struct{} // has something whenever credit has grown
	pieces   [][]byte      // of the answer
	err      error
	done     chan struct{} // closed once the answer is whole
}

func (m *meshCall) result() ([]byte, error) {
	if m.err != nil {
		return nil, m.err
	}
	return join(m.pieces), nil
}

// beginMesh gives the call an id. Its parent is the call on whose behalf it is made,
// or nil.
func (w *worker) beginMesh(function string, parent *call) *meshCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	var target struct {
		Function string `json:"function"`
		Parent   uint32 `json:"parent"`
	}
	target.Function = function
	if parent != nil && !parent.answered {
		target.Parent = parent.id
	}
	metadata, _ := json.Marshal(target) // of a text and a number: it cannot fail
	m := &meshCall{credit: windowBytes, credited: make(chan struct{}, 1), done: make(chan struct{})}
	m.head = make([]byte, openPrefixBytes, openPrefixBytes+len(metadata))
	binary.BigEndian.PutUint32(m.head[5:], uint32(len(metadata)))
	m.head = append(m.head, metadata...)
	for m.id == 0 || w.meshCalls[m.id] != nil {
		w.meshCount++
		m.id = meshBit | w.meshCount
	}
	w.meshCalls[m.id] = m
	return m
}

// sendMesh sends the input as credit allows. It stops where the answer is there
// already, and returns ctx's error where that has ended.
func (w *worker) sendMesh(ctx context.Context, m *meshCall, input []byte) (err error) {
	kind, head := byte(kindOpen), m.head
	forEachPiece(input, pieceBytes, func(piece []byte, last bool) bool {
		for !w.spend(m, len(piece)) {
			select {
			case <-m.credited:
			case <-m.done:
				return false
			case <-ctx.Done():
				w.abandonMesh(m)
				err = ctx.Err()
				return false
			}
		}
		var flags byte
		if last {
			flags = flagLast
		}
		w.post(func(out []byte) []byte {
			return appendFrame(out, m.id, kind, flags, head, piece)
		})
		kind, head = kindData, nil
		return true
	})
	return err
}

// spend takes credit for a piece, if there is enough.
func (w *worker) spend(m *meshCall, size int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.credit < size {
		return false
	}
	m.credit -= size
	return true
}

// abandonMesh cancels it: nobody waits for the answer.
func (w *worker) abandonMesh(m *meshCall) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.meshCalls[m.id] == m {
		delete(w.meshCalls, m.id)
		w.outbox.frames = appendFrame(w.outbox.frames, m.id, kindCancel, 0)
		w.callForHelp()
	}
}

// takeMesh takes what the watcher sends for a mesh call.
func (w *worker) takeMesh(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.meshCalls[f.id]
	if m == nil { // its cancel and this frame crossed
		return nil
	}
	switch f.kind {
	case kindCredit:
		size, err := f.credit()
		if err != nil {
			return err
		}
		m.credit += size
		select {
		case m.credited <- struct{}{}:
		default: // it has not looked at the last one yet
		}
		return nil
	case kindReply:
		piece, err := replyBody(f.payload)
		if err != nil {
			return err
		}
		w.takeMeshPiece(m, piece, f.flags)
	case kindData:
		w.takeMeshPiece(m, f.payload, f.flags)
	case kindError:
		var failed failure
		if err := json.Unmarshal(f.payload, &failed); err != nil {
			return malformed("an ERROR that cannot be read: %v", err)
		}
		m.err = &MeshError{Code: failed.Code, Message: failed.Message}
		w.endMesh(m)
	default:
		return malformed("kind %d for a mesh call", f.kind)
	}
	return nil
}

// takeMeshPiece takes a piece of the answer. The lock is held.
func (w *worker) takeMeshPiece(m *meshCall, piece []byte, flags byte) {
	m.pieces = append(m.pieces, piece)
	if flags&flagLast != 0 {
		w.endMesh(m)
		return
	}
	if len(piece) > 0 {
		w.outbox.frames = appendCredit(w.outbox.frames, m.id, len(piece))
		w.callForHelp()
	}
}

func (w *worker) endMesh(m *meshCall) {
	delete(w.meshCalls, m.id)
	close(m.done)
}

// replyBody returns what follows the head of a REPLY.
func replyBody(payload []byte) ([]byte, error) {
	if len(payload) < replyPrefixBytes {
		return nil, malformed("a REPLY of %d bytes", len(payload))
	}
	start := replyPrefixBytes + int(binary.BigEndian.Uint32(payload[replyPrefixBytes-4:]))
	if start > len(payload) {
		return nil, malformed("a REPLY of %d bytes, whose head alone has %d", len(payload), start)
	}
	return payload[start:], nil
}
