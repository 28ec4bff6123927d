package dcf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

// slotsByDefault is how many handlers run at once where the watcher leaves it to
// the worker: Go code is made for it, and waits more than it computes.
const slotsByDefault = 100

// worker has both sockets and the calls on them.
type worker struct {
	data     *os.File
	control  *os.File
	function Function
	handle   handler
	hello    hello
	info     Info

	mu         sync.Mutex // guards what follows, and what call says
	calls      map[uint32]*call
	newest     uint32          // id of the call that was opened last
	early      map[uint32]bool // cancels that came before their call
	line       callLine        // calls whose input is whole, in that order
	running    int             // handlers
	slots      int             // handlers at once
	helpComing bool            // a goroutine will soon be at work
	cautious   int             // calls left that are treated as if handlers were slow
	outbox     outbox
	bigAnswers int        // of several frames, on their way
	bigChanged *sync.Cond // that number fell, or a call was cancelled
	meshCalls  map[uint32]*meshCall
	meshCount  uint32
}

// hello is what the watcher says of the function. Other keys are none of ours.
type hello struct {
	Protocol        int    `json:"protocol"`
	Function        string `json:"function"`
	Replica         string `json:"replica"`
	Slots           int    `json:"slots"`
	MaxPayloadBytes int    `json:"max_payload_bytes"`
	Debug           bool   `json:"debug"`
}

func newWorker(data, control int, function Function) *worker {
	w := &worker{
		data:      openSocket(data, "data"),
		control:   openSocket(control, "control"),
		function:  function,
		calls:     map[uint32]*call{},
		early:     map[uint32]bool{},
		meshCalls: map[uint32]*meshCall{},
	}
	w.bigChanged = sync.NewCond(&w.mu)
	return w
}

// run shakes hands, loads the function, and serves until the watcher goes.
func (w *worker) run() {
	w.say(kindHello, map[string]any{
		"protocol": protocolVersion,
		"runtime":  "go",
		"version":  strings.TrimPrefix(runtime.Version(), "go"),
		"pid":      os.Getpid(),
	})
	frames := newFrameReader(w.data)
	first, err := frames.next()
	if err == nil {
		err = w.readHello(first)
	}
	if err != nil {
		w.endOf(err)
	}
	// Before the load: a cancelled start ends the process even while Init runs.
	go w.serveControl()
	go w.load()
	w.serveData(frames)
}

func (w *worker) readHello(f frame) error {
	if f.kind != kindHello {
		return malformed("kind %d before its HELLO", f.kind)
	}
	if err := json.Unmarshal(f.payload, &w.hello); err != nil {
		return malformed("a HELLO that cannot be read: %v", err)
	}
	if w.hello.Protocol != protocolVersion {
		return malformed("protocol %d; this worker speaks %d", w.hello.Protocol, protocolVersion)
	}
	w.info = Info{Function: w.hello.Function, Replica: w.hello.Replica}
	w.slots = w.hello.Slots
	if w.slots < 1 {
		w.slots = slotsByDefault
	}
	return nil
}

// say sends what there is to say before the first call.
func (w *worker) say(kind byte, value map[string]any) {
	if _, err := w.data.Write(appendJSON(nil, 0, kind, value)); err != nil {
		w.endOf(err)
	}
}

// endOf ends the process as the end of a socket, or what came on it, calls for.
func (w *worker) endOf(err error) {
	var bad *malformedError
	if errors.As(err, &bad) {
		end(exitBroken, "%v", bad)
	}
	os.Exit(exitGone) // with the watcher everybody has gone who wanted an answer
}

func end(status int, format string, args ...any) {
	fmt.Fprintf(os.Stderr, "dcf worker: "+format+"\n", args...)
	os.Exit(status)
}
