// Package function answers with what it was sent: whole, or as a stream, message by message.
package function

import (
	"context"
	"strings"

	"dcf"
)

// Handler answers one input. With the query `upper` the text comes back in capitals, and as text.
func Handler(req dcf.Request) (dcf.Reply, error) {
	if req.Metadata.Query() == "upper" {
		return dcf.Text(strings.ToUpper(req.Text())), nil
	}
	return dcf.Bytes(req.Input), nil
}

// Stream answers each message of a WebSocket, or of a gRPC stream, as it comes.
func Stream(ctx context.Context, in <-chan []byte, out chan<- []byte) error {
	for message := range in {
		select {
		case out <- message:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
