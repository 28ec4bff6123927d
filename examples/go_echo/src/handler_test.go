package function

import (
	"testing"

	"dcf"
)

func TestHandlerAnswersWithItsInput(t *testing.T) {
	reply, err := Handler(dcf.Request{Input: []byte("Hello")})
	if err != nil || string(reply.Body) != "Hello" {
		t.Fatalf("got %q, %v", reply.Body, err)
	}
}
