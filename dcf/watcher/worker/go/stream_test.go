package dcf

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// chat is a call whose input is a stream.
type chat struct {
	*peer
	id uint32
}

func (p *peer) chat(options openOptions) chat {
	p.t.Helper()
	options.flags |= flagStream
	id, frames := p.pack("", options)
	p.sendData(frames)
	if size, err := p.nextOf(id, kindCredit).credit(); size != streamWindowBytes || err != nil {
		p.t.Fatalf("the window is %d (%v)", size, err)
	}
	return chat{p, id}
}

func (c chat) say(message string) {
	c.t.Helper()
	c.sendData(appendFrame(nil, c.id, kindData, flagEnd, []byte(message)))
}

func (c chat) end() {
	c.t.Helper()
	c.sendData(appendFrame(nil, c.id, kindData, flagLast))
}

// answer returns the next frame of the answer.
func (c chat) answer() frame {
	c.t.Helper()
	for {
		f := c.next()
		if f.id != c.id {
			c.t.Fatalf("a frame of call %d: %q", f.id, f.payload)
		}
		if f.kind != kindCredit {
			return f
		}
	}
}

// hear returns the next message, and gives credit for it.
func (c chat) hear() string {
	c.t.Helper()
	var message []byte
	for {
		f := c.answer()
		if f.kind != kindData || f.flags&flagLast != 0 {
			c.t.Fatalf("expected a message, got kind %d with flags %d: %q", f.kind, f.flags, f.payload)
		}
		c.sendControl(appendCredit(nil, c.id, len(f.payload)+frameCostBytes))
		message = append(message, f.payload...)
		if f.flags&flagEnd != 0 {
			return string(message)
		}
	}
}

func (c chat) expectReply() {
	c.t.Helper()
	if f := c.answer(); f.kind != kindReply || f.flags != flagStream || len(f.payload) != replyPrefixBytes {
		c.t.Fatalf("expected the REPLY of a stream, got kind %d with flags %d: %q", f.kind, f.flags, f.payload)
	}
}

func (c chat) expectEnd() {
	c.t.Helper()
	if f := c.answer(); f.kind != kindData || f.flags != flagLast || len(f.payload) != 0 {
		c.t.Fatalf("expected the end, got kind %d with flags %d: %q", f.kind, f.flags, f.payload)
	}
}

func TestStreamAnswersEachMessageAsItComes(t *testing.T) {
	p := start(t, "both", nil)
	c := p.chat(openOptions{})

	c.say("one")
	c.expectReply()
	if got := c.hear(); got != "one" {
		t.Error(got)
	}
	c.say("two")
	if got := c.hear(); got != "two" {
		t.Error(got)
	}
	c.end()
	c.expectEnd()

	if p.state["bidirectional"] != true || p.state["streams"] != false {
		t.Error(p.state)
	}
	if got := p.call("hello"); got.body != "hello" {
		t.Error(got)
	}
}

func TestSingleInputIsAStreamOfOneForAStreamAlone(t *testing.T) {
	p := start(t, "stream", nil)
	c := chat{p, p.open("many 3")}

	c.expectReply()
	for number := 0; number < 3; number++ {
		if got := c.hear(); got != strconv.Itoa(number) {
			t.Error(got)
		}
	}
	c.expectEnd()

	if p.state["bidirectional"] != true || p.state["streams"] != true {
		t.Error(p.state)
	}
}

func TestStreamOfNothingIsOneFrame(t *testing.T) {
	p := start(t, "stream", nil)

	f := p.nextOf(p.open("nothing"), kindReply)

	if f.flags != flagStream|flagLast {
		t.Error(f.flags)
	}
}

func TestStreamHasNoDeadlineFromItsFirstMessageOn(t *testing.T) {
	p := start(t, "stream", nil)
	c := p.chat(openOptions{deadline: time.Minute, metadata: `{"path": "/here"}`})

	c.say("about")
	c.expectReply()

	if got := c.hear(); got != "echo /here true" {
		t.Error(got)
	}
	if got := c.hear(); got != "false" {
		t.Error(got)
	}
}

func TestFailureOfAStream(t *testing.T) {
	for _, one := range []struct{ input, message string }{
		{"error no luck", "no luck"}, {"panic oh", "panic: oh"}, {"goexit", "runtime.Goexit was called"},
	} {
		t.Run(one.input, func(t *testing.T) {
			p := start(t, "stream", nil)

			before := p.fail(one.input)
			c := p.chat(openOptions{})
			c.say("hello")
			c.expectReply()
			c.hear()
			c.say(one.input)
			after := p.readFailure(c.answer())

			if before.Message != one.message || after.Message != one.message || after.Code != codeHandlerError {
				t.Error(before, after)
			}
			again := chat{p, p.open("hello")}
			again.expectReply()
		})
	}
}

func TestHandlerThatClosesItsOutputHasEndedItsStream(t *testing.T) {
	p := start(t, "stream", nil)
	c := p.chat(openOptions{})
	c.say("hello")
	c.expectReply()
	c.hear()

	c.say("close")

	c.expectEnd()
}

func TestLargeMessagesGoInPieces(t *testing.T) {
	p := start(t, "stream", nil)
	c := p.chat(openOptions{})
	large := strings.Repeat("m", 3*streamPieceBytes/2)

	c.sendData(appendFrame(nil, c.id, kindData, 0, []byte(large[:streamPieceBytes])))
	if size, _ := p.nextOf(c.id, kindCredit).credit(); size != streamPieceBytes+frameCostBytes {
		t.Error(size)
	}
	c.say(large[streamPieceBytes:])
	c.expectReply()

	if got := c.hear(); got != large {
		t.Errorf("%d bytes came of %d", len(got), len(large))
	}
}

func TestStreamWaitsForCredit(t *testing.T) {
	p := start(t, "stream", nil)
	c := p.chat(openOptions{})
	c.say("large " + strconv.Itoa(streamPieceBytes))
	c.say("hello")
	c.expectReply()
	c.answer() // the window is used up
	other := p.open("nothing")
	f := p.next()
	for f.kind == kindCredit { // for "hello", which the handler has taken
		f = p.next()
	}
	if f.id != other || f.kind != kindReply {
		t.Fatalf("%+v", f)
	}

	p.sendControl(appendCredit(nil, c.id, streamPieceBytes+frameCostBytes))

	if got := c.hear(); got != "hello" {
		t.Error(got)
	}
}

func TestHandlerThatTakesNoInputGivesNoCredit(t *testing.T) {
	p := start(t, "stream", nil)
	file := filepath.Join(t.TempDir(), "go")
	c := p.chat(openOptions{})
	c.say("deaf " + file)
	p.nextOf(c.id, kindCredit) // taken
	c.say(strings.Repeat("q", 1000))
	f := chat{p, p.open("nothing")}.answer() // and no credit before it

	write(t, file)
	c.expectReply()

	if got := c.hear(); got != strings.Repeat("q", 1000) || f.kind != kindReply {
		t.Error(got, f)
	}
}

func TestCancelledStreamIsNotBlockedForEver(t *testing.T) {
	p := start(t, "stream", helloOptions{"slots": 1})
	file := filepath.Join(t.TempDir(), "returned")
	c := p.chat(openOptions{})
	c.say("endless " + file)
	c.expectReply()
	c.answer() // and no credit

	p.cancel(c.id)
	f := c.answer()
	for f.kind == kindData {
		f = c.answer()
	}

	if got := p.readFailure(f); got.Code != codeClientGone {
		t.Error(got)
	}
	if !exists(file) {
		t.Error("the handler has not returned")
	}
	again := chat{p, p.open("hello")} // the slot is free
	again.expectReply()
}

func TestCancelledStreamThatWaitsForInputEnds(t *testing.T) {
	p := start(t, "stream", nil)
	c := p.chat(openOptions{})
	c.say("hello")
	c.expectReply()
	c.hear()

	p.cancel(c.id)

	if got := p.readFailure(c.answer()); got.Code != codeClientGone {
		t.Error(got)
	}
}

func TestTooLargeMessages(t *testing.T) {
	p := start(t, "stream", helloOptions{"max_payload_bytes": 1000})
	c := p.chat(openOptions{})
	c.say(strings.Repeat("x", 1001))
	in := p.readFailure(c.answer())

	c = p.chat(openOptions{})
	c.say("large 1001")
	c.say("hello")
	out := p.readFailure(c.answer())

	if in.Code != codePayloadTooLarge || out.Code != codeHandlerError {
		t.Error(in, out)
	}
}

func TestFunctionWithoutAStreamRefusesOne(t *testing.T) {
	p := start(t, "words", nil)
	id, frames := p.pack("", openOptions{flags: flagStream})
	p.sendData(frames)

	if got := p.readFailure(p.nextOf(id, kindError)); got.Code != codeInvalidInput {
		t.Error(got)
	}
}

func TestFastMessagesAllComeInTheirOrder(t *testing.T) {
	p := start(t, "stream", nil)
	c := chat{p, p.open("many 5000")}
	c.expectReply()

	for number := 0; number < 5000; number++ {
		if got := c.hear(); got != fmt.Sprint(number) {
			t.Fatalf("expected %d, got %s", number, got)
		}
	}
	c.expectEnd()
}
