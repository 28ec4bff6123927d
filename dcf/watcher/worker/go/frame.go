package dcf

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

const protocolVersion = 1

// Kinds of frames.
const (
	kindHello    = 1
	kindState    = 2
	kindOpen     = 3
	kindData     = 4
	kindReply    = 5
	kindError    = 6
	kindCancel   = 8
	kindCredit   = 9
	kindShutdown = 10
)

// Flags of frames.
const (
	flagLast     = 1
	flagStream   = 2
	flagEnd      = 4
	contentShift = 3
)

// Sizes, in bytes.
const (
	headerBytes       = 10
	openPrefixBytes   = 9
	replyPrefixBytes  = 15
	creditBytes       = 4
	maxFrameBytes     = 8 << 20
	pieceBytes        = 256 << 10
	windowBytes       = 1 << 20
	streamPieceBytes  = 64 << 10
	streamWindowBytes = 64 << 10
	frameCostBytes    = 64 // of credit, for each frame of a stream, beside its payload
)

// meshBit is set in the ids of calls that handlers make.
const meshBit = 1 << 31

// frame is one frame as it came; the payload is the reader's own.
type frame struct {
	id      uint32
	kind    byte
	flags   byte
	payload []byte
}

// malformedError says what the watcher has sent that cannot be read. The worker
// ends with it, and never guesses.
type malformedError struct{ text string }

func (e *malformedError) Error() string { return e.text }

func malformed(format string, args ...any) error {
	return &malformedError{"the watcher sent " + fmt.Sprintf(format, args...)}
}

// credit returns how many bytes more a CREDIT frame allows.
func (f frame) credit() (int, error) {
	if len(f.payload) != creditBytes {
		return 0, malformed("a CREDIT frame of %d bytes", len(f.payload))
	}
	return int(binary.BigEndian.Uint32(f.payload)), nil
}

// appendFrame appends a frame whose payload is the parts, one after the other.
func appendFrame(out []byte, id uint32, kind, flags byte, parts ...[]byte) []byte {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	out = binary.BigEndian.AppendUint32(out, uint32(size))
	out = binary.BigEndian.AppendUint32(out, id)
	out = append(out, kind, flags)
	for _, part := range parts {
		out = append(out, part...)
	}
	return out
}

func appendCredit(out []byte, id uint32, size int) []byte {
	var payload [creditBytes]byte
	binary.BigEndian.PutUint32(payload[:], uint32(size))
	return appendFrame(out, id, kindCredit, 0, payload[:])
}

func appendJSON(out []byte, id uint32, kind byte, value any) []byte {
	encoded, _ := json.Marshal(value) // of texts and numbers: it cannot fail
	return appendFrame(out, id, kind, 0, encoded)
}

// forEachPiece cuts a body: `last` is true for the last piece. An empty body is one
// empty piece. It stops where `send` says false.
func forEachPiece(body []byte, size int, send func(piece []byte, last bool) bool) {
	for len(body) > size {
		if !send(body[:size], false) {
			return
		}
		body = body[size:]
	}
	send(body, true)
}
