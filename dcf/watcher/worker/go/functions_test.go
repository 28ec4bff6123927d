package dcf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// functions are what workers of these tests serve, by name.
var functions = map[string]Function{
	"words":       {Handler: words},
	"text":        {Handler: func(req Request) string { return req.Text() }},
	"bytes":       {Handler: func(req Request) ([]byte, error) { return req.Input, nil }},
	"string":      {Handler: func(req Request) (string, error) { return req.Text(), nil }},
	"stream":      {Stream: stream},
	"both":        {Handler: words, Stream: stream},
	"odd":         {Handler: func(Request) int { return 0 }},
	"nothing":     {},
	"init-fails":  {Handler: words, Init: func() error { return errors.New("no\nmodel") }},
	"init-panics": {Handler: words, Init: func() error { return deep(0) }},
	"init-exits":  {Handler: words, Init: func() error { runtime.Goexit(); return nil }},
	"init-hangs":  {Handler: words, Init: func() error { select {} }},
	"init-works":  {Handler: words, Init: func() error { ready.Store(true); return nil }},
}

var (
	ready  atomic.Bool
	served atomic.Int64
)

// words does what the first word of its input says, with the rest.
func words(req Request) (Reply, error) {
	served.Add(1)
	word, rest, _ := strings.Cut(req.Text(), " ")
	switch word {
	case "served":
		return Text(fmt.Sprint(served.Load())), nil
	case "ready":
		return Text(fmt.Sprint(ready.Load())), nil
	case "large":
		size, err := strconv.Atoi(rest)
		return Bytes([]byte(strings.Repeat("x", size))), err
	case "head":
		return Reply{Body: []byte(rest), ContentType: "image/png", Metadata: map[string]string{"x-one": "1"}}, nil
	case "json":
		var value any
		if err := req.JSON(&value); err != nil {
			return Reply{}, fmt.Errorf("the question: %w", err)
		}
		return JSON(value)
	case "unsayable":
		return JSON(make(chan int))
	case "about":
		again := RequestOf(req.Context)
		return Text(strings.Join([]string{
			req.Info.Function, req.Info.Replica, req.InvocationID, req.Metadata.Method(), again.Metadata.Path(),
			again.Metadata.Query(), req.Metadata.Header("X-WORD"), again.InvocationID,
		}, " ")), nil
	case "error":
		return Reply{}, errors.New(rest)
	case "panic":
		panic(rest)
	case "index":
		return Reply{}, deep(3)
	case "goexit":
		runtime.Goexit()
	case "deadline":
		<-req.Context.Done()
		return Text(req.Context.Err().Error()), nil
	case "wait":
		<-req.Context.Done()
		return Reply{}, fmt.Errorf("gave up: %w", req.Context.Err())
	case "stubborn":
		<-req.Context.Done()
		return Text("all the same"), nil
	case "until": // the file is there
		for !exists(rest) {
			time.Sleep(time.Millisecond)
		}
		return Text("there"), nil
	case "spin":
		for !exists(rest) { // it computes
		}
		return Text("spun"), nil
	case "left-behind":
		over := req.Context.Done()
		go func() {
			<-over
			_ = os.WriteFile(rest, nil, 0o600)
		}()
		return Text("gone"), nil
	case "children":
		output, err := exec.Command("sh", "-c", "ls /proc/self/fd; kill -INT $$; echo survived").Output()
		return Bytes(output), err
	case "mesh":
		return meshWords(req.Context, rest)
	}
	return Bytes(req.Input), nil
}

func meshWords(ctx context.Context, rest string) (Reply, error) {
	function, input, _ := strings.Cut(rest, " ")
	if function == "large" {
		size, _ := strconv.Atoi(input)
		input = strings.Repeat("y", size)
	}
	if function == "stranger" {
		ctx = context.Background()
	}
	answer, err := Call(ctx, function, []byte(input))
	var failed *MeshError
	if errors.As(err, &failed) {
		return Text(failed.Code + ": " + failed.Message), nil
	}
	return Bytes(answer), err
}

func deep(index int) error {
	return errors.New(strings.Repeat("x", []int{1}[index+1]))
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// stream does what each message says, or sends it back.
func stream(ctx context.Context, in <-chan []byte, out chan<- []byte) error {
	for message := range in {
		word, rest, _ := strings.Cut(string(message), " ")
		switch word {
		case "error":
			return errors.New(rest)
		case "panic":
			panic(rest)
		case "goexit":
			runtime.Goexit()
		case "close":
			close(out)
			return nil
		case "many":
			count, _ := strconv.Atoi(rest)
			for number := 0; number < count; number++ {
				out <- []byte(strconv.Itoa(number))
			}
		case "large":
			size, _ := strconv.Atoi(rest)
			out <- []byte(strings.Repeat("z", size))
		case "endless": // deaf for its context: it is not blocked for ever all the same
			for ctx.Err() == nil {
				out <- make([]byte, 1000)
			}
			_ = os.WriteFile(rest, nil, 0o600)
			return ctx.Err()
		case "about":
			request := RequestOf(ctx)
			_, limited := ctx.Deadline()
			out <- []byte(fmt.Sprint(request.Info.Function, " ", request.Metadata.Path(), " ", limited))
			_, limited = ctx.Deadline()
			for ctx.Err() == nil && limited { // the first message has to be out
				_, limited = ctx.Deadline()
				runtime.Gosched()
			}
			out <- []byte(fmt.Sprint(limited))
		case "deaf": // takes no more input until the file is there
			for !exists(rest) {
				time.Sleep(time.Millisecond)
			}
		case "nothing":
		default:
			out <- message
		}
	}
	return ctx.Err()
}
