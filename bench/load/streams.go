package main

import (
	"errors"
	"io"
	"sync"
	"time"
)

// runStreams reads streams to their end, one after another on each connection, all connections at once. It counts the
// chunks that the handler made, by their bytes, for a server may put several into one of HTTP's. The times are those
// to the first byte of a body.
func runStreams(given options) (report, error) {
	connections, err := dialAll(given)
	if err != nil {
		return report{}, err
	}
	var (
		total   tally
		group   sync.WaitGroup
		request = requestBytes(given)
		began   = time.Now()
	)
	for i, one := range connections {
		group.Add(1)
		go func() {
			defer group.Done()
			defer one.Close()
			for done := i; done < given.streams; done += len(connections) {
				if !readStream(one, request, given.size, &total) {
					return
				}
			}
		}()
	}
	group.Wait()
	chunks := len(total.took) * given.size / given.chunk
	return total.report(chunks, time.Since(began)), nil
}

// readStream is false where the connection is of no use any more.
func readStream(one *connection, request []byte, size int, total *tally) bool {
	sent := time.Now()
	if err := one.send(request); err != nil {
		total.bad(true)
		return false
	}
	answer, err := one.answer()
	if err != nil {
		total.bad(true)
		return false
	}
	var (
		first  time.Duration
		read   int
		buffer = make([]byte, 32<<10)
	)
	for {
		number, err := answer.Body.Read(buffer)
		if number > 0 && read == 0 {
			first = time.Since(sent)
		}
		read += number
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			total.bad(true)
			return false
		}
		// A stream may last as long as it likes, if it goes on.
		if err := one.SetDeadline(time.Now().Add(timeout)); err != nil {
			total.bad(true)
			return false
		}
	}
	if answer.StatusCode != 200 || read != size {
		total.bad(false)
	} else {
		total.good(first)
	}
	return true
}
