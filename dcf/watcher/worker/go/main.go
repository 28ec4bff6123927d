package dcf

import (
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// Exit statuses.
const (
	exitGone   = 0  // the watcher has gone, or says so
	exitFailed = 1  // the function cannot be started
	exitUsage  = 2  // this is not how a worker is started
	exitBroken = 70 // the watcher, or this package, has a bug
)

// running is the worker of this process, for what a handler calls by itself.
var running atomic.Pointer[worker]

// Main serves the function to the watcher that has started this process. It never
// returns. Generated code calls it.
func Main(function Function) {
	if !inherited.ok {
		fmt.Fprintf(os.Stderr, "%s is a function of DCF. It is started by a DCF watcher, which hands it two sockets; "+
			"`dcf up` and `dcf function create` bring it there.\n", os.Args[0])
		os.Exit(exitUsage)
	}
	ignoreSignals()
	w := newWorker(inherited.data, inherited.control, function)
	running.Store(w)
	w.run()
}

// ignoreSignals lets a Ctrl-C at the terminal be the watcher's alone: it drains,
// then ends us. A broken pipe is an error of the write. Signals that are ignored
// stay so in the programs that a handler starts; these are taken and dropped.
func ignoreSignals() {
	dropped := make(chan os.Signal, 1) // what does not fit is dropped by os/signal
	signal.Notify(dropped, syscall.SIGINT, syscall.SIGPIPE)
}
