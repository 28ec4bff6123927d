package dcf

import (
	"path/filepath"
	"testing"
)

func TestCancelledHandlerIsToldAndAnswersOnce(t *testing.T) {
	p := start(t, "words", nil)
	gone, stubborn := p.open("wait"), p.open("stubborn")
	p.expectSilence("hello", "hello")

	p.cancel(gone)
	failed := p.readFailure(p.nextOf(gone, kindError))
	p.cancel(stubborn)
	late := p.readReply(p.nextOf(stubborn, kindReply))
	p.cancel(stubborn) // has been answered: ignored

	if failed.Code != codeClientGone || late.body != "all the same" {
		t.Error(failed, late)
	}
	p.expectSilence("hello", "hello")
}

func TestCallThatWaitsIsCancelledAtOnceAndNeverRuns(t *testing.T) {
	p := start(t, "words", helloOptions{"slots": 1})
	file := filepath.Join(t.TempDir(), "go")
	running, queued := p.open("until "+file), p.open("hello")
	unfinished, frames := p.pack("part", openOptions{})
	p.sendData(appendFrame(frames, unfinished, kindData, 0, []byte("more")))
	p.nextOf(unfinished, kindCredit) // all three have come

	p.cancel(queued)
	first := p.readFailure(p.nextOf(queued, kindError))
	p.cancel(unfinished)
	second := p.readFailure(p.nextOf(unfinished, kindError))
	p.sendData(appendFrame(nil, unfinished, kindData, flagLast, []byte("crossed")))
	write(t, file)
	p.nextOf(running, kindReply)

	if first.Code != codeClientGone || second.Code != codeClientGone {
		t.Error(first, second)
	}
	p.expectSilence("served", "2")
}

func TestCancelThatComesBeforeItsCallIsKept(t *testing.T) {
	p := start(t, "words", nil)
	running := p.open("wait")
	p.call("hello")

	p.cancel(3)
	p.cancel(2)                // behind: has been answered
	p.expectCancelled(running) // so the two before it have been read
	id, frames := p.pack("hello", openOptions{flags: flagLast})
	p.sendData(frames)

	if id != 3 {
		t.Fatal(id)
	}
	if failed := p.readFailure(p.nextOf(id, kindError)); failed.Code != codeClientGone {
		t.Error(failed)
	}
	p.expectSilence("served", "3")
}

// expectCancelled cancels a call that runs.
func (p *peer) expectCancelled(id uint32) {
	p.t.Helper()
	p.cancel(id)
	if failed := p.readFailure(p.nextOf(id, kindError)); failed.Code != codeClientGone {
		p.t.Error(failed)
	}
}

func TestIdsBeginAgainAfterTheLastOne(t *testing.T) {
	for _, one := range []struct {
		newest, id uint32
		ahead      bool
	}{
		{0, 1, true}, {5, 6, true}, {5, 5, false}, {5, 4, false}, {meshBit - 1, 1, true}, {1, meshBit - 1, false},
	} {
		w := &worker{newest: one.newest}
		if w.isAhead(one.id) != one.ahead {
			t.Errorf("%+v", one)
		}
	}
}

func TestContextEndsWhenTheHandlerHasReturned(t *testing.T) {
	p := start(t, "words", nil)
	file := filepath.Join(t.TempDir(), "told")

	p.call("left-behind " + file)

	until(t, "the end of the goroutine", func() bool { return exists(file) })
}
