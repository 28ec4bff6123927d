package dcf

import (
	"os"
	"strconv"
	"syscall"
)

// inherited are the two sockets that the last two arguments name; ok where both
// are there.
var inherited struct {
	data, control int
	ok            bool
}

// The user's package is initialised after this one: no program that it starts then
// gets the sockets.
func init() {
	count := len(os.Args)
	if count < 3 {
		return
	}
	var okData, okControl bool
	inherited.data, okData = socketOf(os.Args[count-2])
	inherited.control, okControl = socketOf(os.Args[count-1])
	if okData && okControl {
		inherited.ok = true
		syscall.CloseOnExec(inherited.data)
		syscall.CloseOnExec(inherited.control)
	}
}

func socketOf(argument string) (descriptor int, ok bool) {
	descriptor, err := strconv.Atoi(argument)
	if err != nil || descriptor < 0 {
		return 0, false
	}
	kind, err := syscall.GetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_TYPE)
	return descriptor, err == nil && kind == syscall.SOCK_STREAM
}

// openSocket makes the descriptor one that Go's poller waits for: a read or a
// write that waits holds no thread.
func openSocket(descriptor int, name string) *os.File {
	if err := syscall.SetNonblock(descriptor, true); err != nil {
		end(exitBroken, "the %s socket cannot be used: %v", name, err)
	}
	return os.NewFile(uintptr(descriptor), name)
}
