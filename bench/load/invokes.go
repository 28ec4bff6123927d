package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"time"
)

// runInvokes keeps messages in flight on one gRPC stream: each answer lets the next message go. Body and answer are
// whole gRPC messages, with their five bytes of length; all are the same, so that an answer's time is that of the
// oldest message without one.
func runInvokes(given options) (report, error) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	reader, writer := io.Pipe()
	request, err := http.NewRequest(http.MethodPost, given.target.String(), reader)
	if err != nil {
		return report{}, err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("Te", "trailers")
	// Who waits for an answer has taken one time out; so many messages are in flight as were asked for.
	sent := make(chan time.Time, given.inFlight-1)
	began := time.Now()
	go sendMessages(writer, given, sent, began.Add(given.duration))
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return report{}, err
	}
	defer answer.Body.Close()
	var (
		total   tally
		got     = make([]byte, len(given.answer))
		answers = bufio.NewReaderSize(answer.Body, 64*1024)
	)
	for at := range sent {
		if _, err := io.ReadFull(answers, got); err != nil {
			return report{}, fmt.Errorf("after %d answers: %w, grpc-status %q: %s", len(total.took), err,
				answer.Trailer.Get("Grpc-Status"), answer.Trailer.Get("Grpc-Message"))
		}
		if bytes.Equal(got, given.answer) {
			total.good(time.Since(at))
		} else {
			total.bad(false)
		}
	}
	duration := time.Since(began)
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		total.bad(true)
	}
	if status := answer.Trailer.Get("Grpc-Status"); status != "0" {
		return report{}, fmt.Errorf("the stream ended with grpc-status %q: %s", status, answer.Trailer.Get("Grpc-Message"))
	}
	return total.report(0, duration), nil
}

// sendMessages closes `sent` when the time is over; the reader then takes what is in flight. Messages that may go at
// the same moment are written together, as gRPC's own clients write them.
func sendMessages(writer *io.PipeWriter, given options, sent chan time.Time, end time.Time) {
	defer close(sent)
	defer writer.Close()
	together := bytes.Repeat(given.body, given.inFlight)
	for now := time.Now(); now.Before(end); now = time.Now() {
		sent <- now
		count := 1
		for more := true; more && count < given.inFlight; {
			select {
			case sent <- now:
				count++
			default:
				more = false
			}
		}
		if _, err := writer.Write(together[:count*len(given.body)]); err != nil {
			return
		}
	}
}
