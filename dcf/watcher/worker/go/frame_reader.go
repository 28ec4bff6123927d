package dcf

import (
	"bufio"
	"encoding/binary"
	"io"
)

// readBytes is what one read may take: many small calls, or a part of a piece.
const readBytes = 64 << 10

// frameReader cuts what one socket delivers into frames.
type frameReader struct {
	buffer *bufio.Reader
}

func newFrameReader(socket io.Reader) *frameReader {
	return &frameReader{bufio.NewReaderSize(socket, readBytes)}
}

// next returns the next frame; io.EOF, or whatever the socket says, at the end.
func (r *frameReader) next() (frame, error) {
	header, err := r.buffer.Peek(headerBytes)
	if err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(header)
	f := frame{id: binary.BigEndian.Uint32(header[4:]), kind: header[8], flags: header[9]}
	if length > maxFrameBytes {
		return frame{}, malformed("a frame of %d bytes", length)
	}
	_, _ = r.buffer.Discard(headerBytes) // they were peeked at
	if length > 0 {
		f.payload = make([]byte, length)
		_, err = io.ReadFull(r.buffer, f.payload)
	}
	return f, err
}
