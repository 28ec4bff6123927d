package main

import (
	"bytes"
	"io"
	"runtime"
	"syscall"
	"time"
)

// runRate sends requests at fixed times whatever becomes of those before them. An answer's time counts from when its
// request was due: a server that is behind cannot hide it by taking requests later.
func runRate(given options) (report, error) {
	connections, err := dialAll(given)
	if err != nil {
		return report{}, err
	}
	var (
		total   tally
		request = requestBytes(given)
		idle    = make(chan *connection, len(connections))
		due     = make(map[*connection]chan time.Time, len(connections))
	)
	for _, one := range connections {
		due[one] = make(chan time.Time, 1)
		go readAnswers(one, due[one], idle, given.answer, &total)
		idle <- one
	}
	// Go's own timers may be a millisecond late, which is as much as is to be measured.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	number := int(given.perS * given.duration.Seconds())
	for i := range number {
		at := began.Add(time.Duration(float64(i) / given.perS * float64(time.Second)))
		sleepUntil(at)
		one, isOpen := next(idle)
		if !isOpen {
			break
		}
		due[one] <- at
		if err := one.send(request); err != nil {
			total.bad(true)
			continue
		}
	}
	for range connections {
		one, isOpen := next(idle)
		if !isOpen {
			break
		}
		close(due[one])
		_ = one.Close()
	}
	return total.report(0, time.Since(began)), nil
}

// next is a connection that is free; false where none is within the timeout, or all are broken.
func next(idle chan *connection) (*connection, bool) {
	select {
	case one := <-idle:
		return one, true
	case <-time.After(timeout):
		return nil, false
	}
}

func readAnswers(one *connection, due chan time.Time, idle chan *connection, expected []byte, total *tally) {
	for at := range due {
		answer, err := one.answer()
		if err != nil {
			total.bad(true)
			return
		}
		body, err := io.ReadAll(answer.Body)
		took := time.Since(at)
		if err != nil {
			total.bad(true)
			return
		}
		if answer.StatusCode != 200 || !bytes.Contains(body, expected) {
			total.bad(false)
		} else {
			total.good(took)
		}
		idle <- one
	}
}

func sleepUntil(at time.Time) {
	for left := time.Until(at); left > 0; left = time.Until(at) {
		span := syscall.NsecToTimespec(left.Nanoseconds())
		_ = syscall.Nanosleep(&span, nil)
	}
}
