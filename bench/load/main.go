// Command load puts the loads on a server that wrk and h2load cannot: calls at a constant rate, streams, one gRPC stream.
//
//	load rate    -url URL -per-s 500 -connections 64 -seconds 5 -body FILE -type application/octet-stream -answer FILE
//	load streams -url URL -connections 64 -streams 64 -body FILE -type application/octet-stream -size 64000 -chunk 64
//	load invokes -url URL -in-flight 64 -seconds 5 -body FILE -answer FILE
//
// It prints one line of JSON, the report below. Whatever is wrong with an answer is counted there; what keeps it from
// working at all ends it with status 1.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"sort"
	"sync"
	"time"
)

// report is what loadgen.py reads: its Load, field by field.
type report struct {
	Requests     int   `json:"requests"`
	DurationUs   int64 `json:"duration_us"`
	P50Us        int64 `json:"p50_us"`
	P99Us        int64 `json:"p99_us"`
	BadAnswers   int   `json:"bad_answers"`
	SocketErrors int   `json:"socket_errors"`
}

// options are those of all modes.
type options struct {
	target      *url.URL
	connections int
	streams     int
	inFlight    int
	perS        float64
	duration    time.Duration
	body        []byte
	contentType string
	answer      []byte
	size        int
	chunk       int
}

// tally is what the connections of one run add to.
type tally struct {
	mutex        sync.Mutex
	took         []time.Duration
	badAnswers   int
	socketErrors int
}

func (t *tally) good(took time.Duration) {
	t.mutex.Lock()
	t.took = append(t.took, took)
	t.mutex.Unlock()
}

func (t *tally) bad(isSocket bool) {
	t.mutex.Lock()
	if isSocket {
		t.socketErrors++
	} else {
		t.badAnswers++
	}
	t.mutex.Unlock()
}

// report is of `requests` answers, or of as many as there are times where it is 0.
func (t *tally) report(requests int, duration time.Duration) report {
	sort.Slice(t.took, func(i, j int) bool { return t.took[i] < t.took[j] })
	at := func(share float64) int64 {
		if len(t.took) == 0 {
			return 0
		}
		return t.took[int(share*float64(len(t.took)-1)+0.5)].Microseconds()
	}
	if requests == 0 {
		requests = len(t.took)
	}
	return report{
		Requests:     requests,
		DurationUs:   duration.Microseconds(),
		P50Us:        at(0.50),
		P99Us:        at(0.99),
		BadAnswers:   t.badAnswers,
		SocketErrors: t.socketErrors,
	}
}

var modes = map[string]func(options) (report, error){
	"rate":    runRate,
	"streams": runStreams,
	"invokes": runInvokes,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	if len(words) == 0 || modes[words[0]] == nil {
		return fmt.Errorf("the first word is rate, streams or invokes")
	}
	flags := flag.NewFlagSet(words[0], flag.ExitOnError)
	var (
		given   options
		address = flags.String("url", "", "http://host:port/path")
		seconds = flags.Float64("seconds", 1, "length of the load")
		body    = flags.String("body", "", "file to send")
		answer  = flags.String("answer", "", "file with bytes that each answer must hold")
	)
	flags.IntVar(&given.connections, "connections", 1, "")
	flags.IntVar(&given.streams, "streams", 1, "in all")
	flags.IntVar(&given.inFlight, "in-flight", 1, "messages that are sent and not yet answered")
	flags.Float64Var(&given.perS, "per-s", 1, "requests per second, evenly spaced")
	flags.StringVar(&given.contentType, "type", "application/octet-stream", "of the body")
	flags.IntVar(&given.size, "size", 0, "bytes of a whole stream")
	flags.IntVar(&given.chunk, "chunk", 1, "bytes of each chunk of it")
	if err := flags.Parse(words[1:]); err != nil {
		return err
	}
	var err error
	if given.target, err = url.Parse(*address); err != nil {
		return err
	}
	if given.body, err = os.ReadFile(*body); err != nil {
		return err
	}
	if *answer != "" {
		if given.answer, err = os.ReadFile(*answer); err != nil {
			return err
		}
	}
	given.duration = time.Duration(*seconds * float64(time.Second))
	found, err := modes[words[0]](given)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}
