package dcf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait; only a failure ever takes so long.
const patience = 20 * time.Second

// functionVariable names, to this test program, the function that it is to serve
// as a worker instead of running tests.
const functionVariable = "TEST_FUNCTION"

func TestMain(m *testing.M) {
	if name := os.Getenv(functionVariable); name != "" {
		Main(functions[name])
	}
	os.Exit(m.Run())
}

// peer is the watcher's side of a worker, which is a process of its own.
type peer struct {
	t       *testing.T
	data    *os.File
	control *os.File
	frames  *frameReader
	process *exec.Cmd
	stderr  *lockedBuffer
	exited  chan int
	state   map[string]any
	lastID  uint32
}

// lockedBuffer may be read while a process still writes to it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(data)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// options of HELLO.
type helloOptions map[string]any

// start starts a worker, and waits for its STATE.
func start(t *testing.T, function string, options helloOptions, environ ...string) *peer {
	t.Helper()
	p := launch(t, function, environ...)
	hello := map[string]any{
		"protocol": 1, "function": "echo", "replica": "echo-1", "slots": 0, "max_payload_bytes": 16 << 20, "debug": true,
		"a_key_of_the_future": true,
	}
	for key, value := range options {
		hello[key] = value
	}
	p.sendData(appendJSON(nil, 0, kindHello, hello))
	first := p.next()
	if first.kind != kindHello {
		t.Fatalf("the first frame is of kind %d", first.kind)
	}
	state := p.next()
	if state.kind != kindState {
		t.Fatalf("the second frame is of kind %d", state.kind)
	}
	if err := json.Unmarshal(state.payload, &p.state); err != nil {
		t.Fatal(err)
	}
	return p
}

// launch starts a worker, and says nothing to it.
func launch(t *testing.T, function string, environ ...string) *peer {
	t.Helper()
	data, itsData := socketPair(t)
	control, itsControl := socketPair(t)
	p := &peer{t: t, data: data, control: control, frames: newFrameReader(data), stderr: &lockedBuffer{}}
	p.process = exec.Command(os.Args[0], "3", "4")
	p.process.Env = append(append(os.Environ(), functionVariable+"="+function), environ...)
	p.process.ExtraFiles = []*os.File{itsData, itsControl}
	p.process.Stderr = p.stderr
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	itsData.Close()
	itsControl.Close()
	p.exited = make(chan int, 1)
	go func() {
		_ = p.process.Wait()
		p.exited <- p.process.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		data.Close()
		control.Close()
		_ = p.process.Process.Kill()
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Error(p.stderr.String())
		}
	})
	return p
}

func socketPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, descriptor := range pair {
		syscall.CloseOnExec(descriptor)
	}
	if err := syscall.SetNonblock(pair[0], true); err != nil { // for deadlines
		t.Fatal(err)
	}
	return os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
}

func (p *peer) sendData(frames []byte) {
	p.t.Helper()
	if _, err := p.data.Write(frames); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) sendControl(frames []byte) {
	p.t.Helper()
	if _, err := p.control.Write(frames); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next frame on the data socket.
func (p *peer) next() frame {
	p.t.Helper()
	_ = p.data.SetReadDeadline(time.Now().Add(patience))
	f, err := p.frames.next()
	if err != nil {
		p.t.Fatalf("no frame came: %v; standard error: %s", err, p.stderr)
	}
	return f
}

// nextOf returns the next frame, which has to be of that kind and call.
func (p *peer) nextOf(id uint32, kind byte) frame {
	p.t.Helper()
	f := p.next()
	if f.id != id || f.kind != kind {
		p.t.Fatalf("expected kind %d of call %d, got kind %d of call %d: %q", kind, id, f.kind, f.id, f.payload)
	}
	return f
}

// openOptions are what a call may have beside its input.
type openOptions struct {
	deadline time.Duration
	metadata string
	flags    byte
}

// pack makes the OPEN of a new call.
func (p *peer) pack(input string, options openOptions) (id uint32, frames []byte) {
	p.lastID++
	return p.lastID, packOpen(p.lastID, input, options)
}

func packOpen(id uint32, input string, options openOptions) []byte {
	invocation := "inv-1"
	prefix := make([]byte, openPrefixBytes)
	binary.BigEndian.PutUint32(prefix, uint32(options.deadline.Milliseconds()))
	prefix[4] = byte(len(invocation))
	binary.BigEndian.PutUint32(prefix[5:], uint32(len(options.metadata)))
	return appendFrame(nil, id, kindOpen, options.flags, prefix, []byte(invocation), []byte(options.metadata), []byte(input))
}

// open sends a call with its whole input.
func (p *peer) open(input string) uint32 {
	p.t.Helper()
	id, frames := p.pack(input, openOptions{flags: flagLast})
	p.sendData(frames)
	return id
}

func (p *peer) cancel(id uint32) {
	p.t.Helper()
	p.sendControl(appendFrame(nil, id, kindCancel, 0))
}

// reply is a REPLY, taken apart.
type reply struct {
	content  byte
	metadata string
	body     string
	micros   uint32
}

func (p *peer) readReply(f frame) reply {
	p.t.Helper()
	if f.kind != kindReply {
		p.t.Fatalf("expected a REPLY, got kind %d: %q", f.kind, f.payload)
	}
	length := binary.BigEndian.Uint32(f.payload[11:])
	return reply{
		content:  f.payload[10],
		metadata: string(f.payload[replyPrefixBytes : replyPrefixBytes+length]),
		body:     string(f.payload[replyPrefixBytes+length:]),
		micros:   binary.BigEndian.Uint32(f.payload),
	}
}

func (p *peer) readFailure(f frame) failure {
	p.t.Helper()
	if f.kind != kindError || f.flags != flagLast {
		p.t.Fatalf("expected an ERROR, got kind %d with flags %d: %q", f.kind, f.flags, f.payload)
	}
	var failed failure
	if err := json.Unmarshal(f.payload, &failed); err != nil {
		p.t.Fatal(err)
	}
	return failed
}

// call sends a call and returns its answer of one frame.
func (p *peer) call(input string) reply {
	p.t.Helper()
	f := p.nextOf(p.open(input), kindReply)
	if f.flags != flagLast {
		p.t.Fatalf("the flags of the REPLY are %d", f.flags)
	}
	return p.readReply(f)
}

// fail sends a call and returns its ERROR.
func (p *peer) fail(input string) failure {
	p.t.Helper()
	return p.readFailure(p.nextOf(p.open(input), kindError))
}

// exitStatus waits for the end of the worker.
func (p *peer) exitStatus() int {
	p.t.Helper()
	select {
	case status := <-p.exited:
		return status
	case <-time.After(patience):
		p.t.Fatal("the worker does not end")
		return 0
	}
}

// expectSilence fails the test where the worker sends anything until it has answered
// one more call.
func (p *peer) expectSilence(input, answer string) {
	p.t.Helper()
	if got := p.call(input).body; got != answer {
		p.t.Fatalf("expected %q and nothing before it, got %q", answer, got)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}
