package dcf

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

func TestWorkerSaysWhatItIs(t *testing.T) {
	p := launch(t, "init-works")
	p.sendData(appendJSON(nil, 0, kindHello, map[string]any{"protocol": 1, "max_payload_bytes": 100}))

	hello, state := string(p.nextOf(0, kindHello).payload), string(p.nextOf(0, kindState).payload)

	if !strings.Contains(hello, `"runtime":"go"`) || !strings.Contains(hello, `"protocol":1`) ||
		!strings.Contains(hello, `"version":"`+strings.TrimPrefix(runtime.Version(), "go")) {
		t.Error(hello)
	}
	if state != `{"bidirectional":false,"slots":100,"state":"ready","streams":false}` {
		t.Error(state)
	}
	if got := p.call("ready").body; got != "true" {
		t.Error("Init has not run before the first call")
	}
}

func TestFunctionThatCannotBeLoadedSaysWhy(t *testing.T) {
	for function, cause := range map[string]string{
		"init-fails":  "func Init failed: no model",
		"init-panics": "func Init failed: panic: runtime error: index out of range [1] with length 1",
		"init-exits":  "func Init failed: runtime.Goexit was called",
		"odd":         "the Handler is a func(dcf.Request) int, which is none of the forms that a handler may have",
		"nothing":     "the function has neither a Handler nor a Stream",
	} {
		t.Run(function, func(t *testing.T) {
			p := start(t, function, nil)

			if p.state["state"] != "failed" || p.state["cause"] != cause {
				t.Errorf("%q", p.state)
			}
			if status := p.exitStatus(); status != exitFailed {
				t.Error(status)
			}
		})
	}
}

func TestWorkerEndsWithItsWatcher(t *testing.T) {
	for name, leave := range map[string]func(p *peer){
		"SHUTDOWN":       func(p *peer) { p.sendControl(appendFrame(nil, 0, kindShutdown, 0)) },
		"data closed":    func(p *peer) { p.data.Close() },
		"control closed": func(p *peer) { p.control.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "words", nil)
			p.open("wait")
			p.expectSilence("hello", "hello")

			leave(p)

			if status := p.exitStatus(); status != exitGone {
				t.Error(status)
			}
		})
	}
}

func TestWorkerEndsWithItsWatcherWhileItLoads(t *testing.T) {
	p := launch(t, "init-hangs")
	p.sendData(appendJSON(nil, 0, kindHello, map[string]any{"protocol": 1}))
	p.nextOf(0, kindHello)

	p.sendControl(appendFrame(nil, 0, kindShutdown, 0))

	if status := p.exitStatus(); status != exitGone {
		t.Error(status)
	}
}

func TestWorkerEndsWhereItCannotRead(t *testing.T) {
	onData := func(data []byte) func(p *peer) { return func(p *peer) { p.sendData(data) } }
	onControl := func(data []byte) func(p *peer) { return func(p *peer) { p.sendControl(data) } }
	for name, send := range map[string]func(p *peer){
		"a frame over the limit":   onData([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, kindOpen, 0}),
		"an OPEN without a prefix": onData(appendFrame(nil, 1, kindOpen, flagLast, []byte("short"))),
		"an OPEN with a long head": onData(appendFrame(nil, 1, kindOpen, flagLast, []byte{0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})),
		"an OPEN of no id":         onData(packOpen(0, "", openOptions{flags: flagLast})),
		"an unknown kind":          onData(appendFrame(nil, 1, 77, 0)),
		"a BATCH":                  onData(appendFrame(nil, 0, 11, 0, []byte{0, 0, 0, 1})),
		"an unknown kind, there":   onControl(appendFrame(nil, 1, 77, 0)),
		"a CREDIT of one byte":     onControl(appendFrame(nil, 1, kindCredit, 0, []byte{1})),
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "words", nil)

			send(p)

			if status := p.exitStatus(); status != exitBroken {
				t.Error(status)
			}
			if lines := strings.Count(p.stderr.String(), "\n"); lines != 1 {
				t.Errorf("%q", p.stderr)
			}
		})
	}
}

func TestWorkerEndsAtAHelloThatItDoesNotUnderstand(t *testing.T) {
	for name, data := range map[string][]byte{
		"no JSON":          appendFrame(nil, 0, kindHello, 0, []byte("{")),
		"another version":  appendJSON(nil, 0, kindHello, map[string]any{"protocol": 2}),
		"no HELLO at all":  packOpen(1, "", openOptions{flags: flagLast}),
		"a text for slots": appendJSON(nil, 0, kindHello, map[string]any{"protocol": 1, "slots": "many"}),
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, "words")

			p.sendData(data)

			if status := p.exitStatus(); status != exitBroken {
				t.Error(status)
			}
		})
	}
}

func TestProgramStartedByHandSaysWhatItIs(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), functionVariable+"=words")
	var stderr bytes.Buffer
	command.Stderr = &stderr

	_ = command.Run()

	if command.ProcessState.ExitCode() != exitUsage || !strings.Contains(stderr.String(), "is a function of DCF") {
		t.Error(command.ProcessState, stderr.String())
	}
}

func TestChildrenGetNeitherTheSocketsNorTheIgnoredInterrupt(t *testing.T) {
	p := start(t, "words", nil)
	if err := p.process.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}

	// 0, 1, 2, and the folder that ls itself reads; then the shell dies of its signal.
	failed := p.fail("children")

	if !strings.Contains(failed.Message, "signal: interrupt") {
		t.Error(failed)
	}
}
