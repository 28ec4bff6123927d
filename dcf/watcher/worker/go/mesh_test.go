package dcf

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
)

// meshOpen is what the OPEN of a mesh call says.
type meshOpen struct {
	Function string `json:"function"`
	Parent   uint32 `json:"parent"`
	id       uint32
	input    string
	flags    byte
}

func (p *peer) nextMesh() meshOpen {
	p.t.Helper()
	f := p.next()
	if f.kind != kindOpen || f.id&meshBit == 0 {
		p.t.Fatalf("expected a mesh call, got kind %d of %#x: %q", f.kind, f.id, f.payload)
	}
	opened, err := openCall(f.id, f.payload, Info{})
	if err != nil {
		p.t.Fatal(err)
	}
	m := meshOpen{id: f.id, input: string(opened.pieces[0]), flags: f.flags}
	if err := json.Unmarshal([]byte(opened.metadata.raw), &m); err != nil {
		p.t.Fatal(err)
	}
	return m
}

func packReply(id uint32, flags byte, metadata, body string) []byte {
	a := answer{kind: kindReply, flags: flags, metadata: []byte(metadata), body: []byte(body)}
	a.setPrefix(contentBytes)
	return a.appendTo(nil, id)
}

func TestMeshCallNamesItsParentAndGetsItsAnswer(t *testing.T) {
	p := start(t, "words", nil)
	parent := p.open("mesh other hello")

	m := p.nextMesh()
	p.sendControl(packReply(m.id, 0, `{"content_type": "text/plain"}`, "from "))
	credit, _ := p.nextOf(m.id, kindCredit).credit()
	p.sendControl(appendFrame(nil, m.id, kindData, flagLast, []byte("there")))
	got := p.readReply(p.nextOf(parent, kindReply))

	if m.Function != "other" || m.Parent != parent || m.input != "hello" || m.flags != flagLast {
		t.Errorf("%+v", m)
	}
	if got.body != "from there" || credit != 5 {
		t.Error(got, credit)
	}
}

func TestMeshCallOfUnknownParent(t *testing.T) {
	p := start(t, "words", nil)
	p.open("mesh stranger hello")

	if m := p.nextMesh(); m.Parent != 0 {
		t.Errorf("%+v", m)
	}
}

func TestMeshErrorHasItsCode(t *testing.T) {
	p := start(t, "words", nil)
	parent := p.open("mesh other hello")
	m := p.nextMesh()

	p.sendControl(appendFrame(nil, m.id, kindError, flagLast, failure{Code: "mesh_cycle", Message: "round"}.encode()))

	if got := p.readReply(p.nextOf(parent, kindReply)).body; got != "mesh_cycle: round" {
		t.Error(got)
	}
}

func TestLargeInputOfAMeshCallWaitsForCredit(t *testing.T) {
	p := start(t, "words", nil)
	size := windowBytes + pieceBytes/2
	parent := p.open(fmt.Sprint("mesh large ", size))
	m := p.nextMesh()
	got := len(m.input)
	for got < windowBytes {
		got += len(p.nextOf(m.id, kindData).payload)
	}
	p.expectSilence("hello", "hello")

	p.sendControl(appendCredit(nil, m.id, pieceBytes))
	last := p.nextOf(m.id, kindData)
	p.sendControl(packReply(m.id, flagLast, "", "thanks"))

	if got+len(last.payload) != size || last.flags != flagLast {
		t.Error(got, len(last.payload), last.flags)
	}
	if body := p.readReply(p.nextOf(parent, kindReply)).body; body != "thanks" {
		t.Error(body)
	}
}

func TestMeshCallEndsWithItsParent(t *testing.T) {
	for name, input := range map[string]string{
		"that waits for its answer": "mesh other hello",
		"that waits for credit":     fmt.Sprint("mesh large ", windowBytes+1),
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "words", nil)
			parent := p.open(input)
			m := p.nextMesh()
			for got := len(m.input); got > 100 && got < windowBytes; {
				got += len(p.nextOf(m.id, kindData).payload)
			}

			p.cancel(parent)
			p.nextOf(m.id, kindCancel)

			if failed := p.readFailure(p.nextOf(parent, kindError)); failed.Code != codeClientGone {
				t.Error(failed)
			}
			p.sendControl(packReply(m.id, flagLast, "", "crossed"))
			p.expectSilence("hello", "hello")
		})
	}
}

func TestMeshCallOutsideOfAWorkerSaysSo(t *testing.T) {
	if _, err := Call(context.Background(), "other", nil); err == nil {
		t.Error("no error")
	}
}
