package dcf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEachFormOfHandlerHasItsKindOfAnswer(t *testing.T) {
	for _, one := range []struct {
		function, input string
		content         byte
	}{
		{"words", "hello", contentBytes},
		{"bytes", "hello", contentBytes},
		{"text", "hello", contentText},
		{"text", "\xff", contentBytes},
		{"string", "hello", contentText},
		{"words", `json`, contentBytes},
	} {
		if one.input == "json" {
			continue
		}
		p := start(t, one.function, nil)
		if got := p.call(one.input); got.body != one.input || got.content != one.content || got.metadata != "" {
			t.Errorf("%s %q: got %+v", one.function, one.input, got)
		}
	}
}

func TestHandlerSeesWhatTheCallerSent(t *testing.T) {
	p := start(t, "words", nil)
	metadata := `{"method": "POST", "path": "/a", "query": "b=1", "headers": {"x-word": "yes"}, "caller": 7}`

	id, frames := p.pack("about", openOptions{metadata: metadata, flags: flagLast})
	p.sendData(frames)

	if got := p.readReply(p.nextOf(id, kindReply)).body; got != "echo echo-1 inv-1 POST /a b=1 yes inv-1" {
		t.Error(got)
	}
}

func TestReplyHasItsOwnMetadata(t *testing.T) {
	p := start(t, "words", nil)

	got := p.call("head picture")

	if got.body != "picture" || got.metadata != `{"content_type":"image/png","metadata":{"x-one":"1"}}` {
		t.Errorf("%+v", got)
	}
}

func TestErrorsHaveCodesAndTheWorkerLivesOn(t *testing.T) {
	p := start(t, "words", helloOptions{"max_payload_bytes": 1000})
	for _, one := range []struct{ input, code, message string }{
		{"error no luck", codeHandlerError, "no luck"},
		{"panic oh", codeHandlerError, "panic: oh"},
		{"index", codeHandlerError, "panic: runtime error: index out of range [4] with length 1"},
		{"goexit", codeHandlerError, "runtime.Goexit was called"},
		{"json {", codeInvalidInput, "the question: the input is not JSON as expected: invalid character 'j' looking for beginning of value"},
		{"json \xff", codeInvalidInput, "the question: the input is not JSON: it is not UTF-8"},
		{"unsayable", codeHandlerError, "json: unsupported type: chan int"},
		{"large 1001", codeHandlerError, "the handler returned 1001 bytes; max_payload allows 1000"},
	} {
		if got := p.fail(one.input); got.Code != one.code || got.Message != one.message {
			t.Errorf("%s: got %+v", one.input, got)
		}
	}
	if got := p.call("hello").body; got != "hello" {
		t.Error(got)
	}
	until(t, "the log", func() bool { return strings.Contains(p.stderr.String(), "invocation inv-1 failed\nno luck\n") })
}

func TestStackOfAPanicIsTheUsersAlone(t *testing.T) {
	p := start(t, "words", nil)

	stack := p.fail("index").Traceback

	head, steps, _ := strings.Cut(stack, "\n\n")
	if !strings.HasPrefix(head, "panic: runtime error") {
		t.Error(stack)
	}
	lines := strings.Split(strings.TrimSpace(steps), "\n") // two for each step
	if len(lines) != 4 || lines[0] != "dcf.deep(...)" || !strings.Contains(lines[1], "functions_test.go:") ||
		lines[2] != "dcf.words(...)" {
		t.Error(stack)
	}
}

func TestTracebackIsForDebugAlone(t *testing.T) {
	p := start(t, "words", helloOptions{"debug": false})

	if got := p.fail("panic oh"); got.Traceback != "" {
		t.Error(got.Traceback)
	}
}

func TestInputInPiecesIsCreditedAndJoined(t *testing.T) {
	p := start(t, "words", nil)
	id, frames := p.pack("one ", openOptions{})
	p.sendData(frames)

	p.sendData(appendFrame(nil, id, kindData, 0, []byte("two ")))
	credit := p.nextOf(id, kindCredit)
	p.sendData(appendFrame(nil, id, kindData, flagLast, []byte("three")))

	if size, err := credit.credit(); size != 4 || err != nil {
		t.Error(size, err)
	}
	if got := p.readReply(p.nextOf(id, kindReply)).body; got != "one two three" {
		t.Error(got)
	}
}

func TestManyCallsInOneWriteAreEachAnswered(t *testing.T) {
	p := start(t, "words", nil)
	var all []byte
	waiting := map[uint32]string{}
	for number := 0; number < 2000; number++ {
		input := fmt.Sprintf("call %d", number)
		id, frames := p.pack(input, openOptions{flags: flagLast})
		waiting[id] = input
		all = append(all, frames...)
	}

	sent := make(chan error, 1)
	go func() {
		_, err := p.data.Write(all)
		sent <- err
	}()

	for len(waiting) > 0 {
		f := p.next()
		if got := p.readReply(f).body; got != waiting[f.id] {
			t.Fatalf("call %d: expected %q, got %q", f.id, waiting[f.id], got)
		}
		delete(waiting, f.id)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestCallsOfOneSlotRunInTheOrderInWhichTheirInputBecameWhole(t *testing.T) {
	p := start(t, "words", helloOptions{"slots": 1})
	first, frames := p.pack("a", openOptions{})
	for number := 0; number < 10; number++ {
		_, more := p.pack("b", openOptions{flags: flagLast})
		frames = append(frames, more...)
	}
	p.sendData(appendFrame(frames, first, kindData, flagLast, nil))

	for number := uint32(2); number <= 11; number++ {
		p.nextOf(number, kindReply)
	}
	p.nextOf(first, kindReply)
}

func TestNoMoreCallsRunThanThereAreSlots(t *testing.T) {
	p := start(t, "words", helloOptions{"slots": 2})
	file := filepath.Join(t.TempDir(), "go")
	first, second := p.open("until "+file), p.open("until "+file)
	third := p.open("served")

	p.cancel(99) // a frame that is read after the three; its call never comes
	if p.state["slots"] != 2.0 {
		t.Error(p.state)
	}
	write(t, file)

	got := map[uint32]string{}
	for range []int{1, 2, 3} {
		f := p.next()
		got[f.id] = p.readReply(f).body
	}
	if got[first] != "there" || got[second] != "there" || got[third] != "3" {
		t.Error(got)
	}
}

func TestAnswerWaitsForNoOtherHandler(t *testing.T) {
	for _, word := range []string{"until", "spin"} {
		t.Run(word, func(t *testing.T) {
			p := start(t, "words", nil)
			file := filepath.Join(t.TempDir(), "go")
			var frames []byte
			fast := map[uint32]bool{}
			var slow uint32
			for number := 0; number < 20; number++ { // in one write: they are run together
				input := "fast"
				if number == 10 {
					input = word + " " + file
				}
				id, more := p.pack(input, openOptions{flags: flagLast})
				frames = append(frames, more...)
				if number == 10 {
					slow = id
				} else {
					fast[id] = true
				}
			}
			p.sendData(frames)

			for len(fast) > 0 {
				f := p.next()
				if !fast[f.id] {
					t.Fatalf("call %d was answered", f.id)
				}
				delete(fast, f.id)
			}
			write(t, file)
			p.nextOf(slow, kindReply)
		})
	}
}

func TestLargeAnswerWaitsForCreditWithoutItsSlot(t *testing.T) {
	p := start(t, "words", helloOptions{"slots": 1})
	size := windowBytes + 3*pieceBytes + 7
	id := p.open(fmt.Sprint("large ", size))

	first := p.nextOf(id, kindReply)
	got := len(p.readReply(first).body)
	for got < windowBytes {
		got += len(p.nextOf(id, kindData).payload)
	}
	p.expectSilence("hello", "hello") // the window is used up, and the slot is free
	for left := size - windowBytes; left > 0; {
		give := pieceBytes
		if left < give {
			give = left
		}
		p.sendControl(appendCredit(nil, id, give))
		f := p.nextOf(id, kindData)
		left -= len(f.payload)
		got += len(f.payload)
		if isLast := f.flags&flagLast != 0; isLast != (left == 0) {
			t.Fatalf("LAST is %v with %d left", isLast, left)
		}
	}

	var head map[string]int
	if err := json.Unmarshal([]byte(p.readReply(first).metadata), &head); err != nil || head["length"] != size {
		t.Error(head, err)
	}
	if got != size {
		t.Errorf("%d bytes of %d came", got, size)
	}
}

func TestNoMoreLargeAnswersAreHeldThanTheirBound(t *testing.T) {
	p := start(t, "words", helloOptions{"slots": 1})
	count := maxBigAnswers + 1
	ids := make([]uint32, 0, count)
	for number := 0; number < count; number++ {
		ids = append(ids, p.open(fmt.Sprint("large ", windowBytes+1)))
	}
	for got := 0; got < maxBigAnswers*(windowBytes/pieceBytes); got++ {
		p.next()
	}
	last := p.open("hello") // waits: the handler of the one over the bound has not given up its slot

	p.cancel(ids[0])
	seen := map[uint32]bool{}
	for !seen[last] || !seen[ids[0]] || !seen[ids[count-1]] {
		f := p.next()
		seen[f.id] = true
		if f.id == ids[0] && p.readFailure(f).Code != codeClientGone {
			t.Errorf("%q", f.payload)
		}
	}
}

func TestHandlerTimeIsMeasured(t *testing.T) {
	p := start(t, "words", nil)
	id, frames := p.pack("deadline", openOptions{deadline: 20 * time.Millisecond, flags: flagLast})
	p.sendData(frames)

	got := p.readReply(p.nextOf(id, kindReply))

	if got.micros < 15_000 || got.body != "context deadline exceeded" {
		t.Errorf("%+v", got)
	}
}

func write(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
