// Package function is the handler under test in Go: ../../README.md says what it does.
package function

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"dcf"
)

const poll = 2 * time.Millisecond

// command is what the tests ask for.
type command struct {
	Do          string            `json:"do"`
	Text        string            `json:"text"`
	Value       json.RawMessage   `json:"value"`
	ContentType string            `json:"content_type"`
	Metadata    map[string]string `json:"metadata"`
	Size        *int              `json:"size"`
	Count       int               `json:"count"`
	Message     string            `json:"message"`
	Header      string            `json:"header"`
	Name        string            `json:"name"`
	Log         string            `json:"log"`
	Until       string            `json:"until"`
	Function    string            `json:"function"`
}

// Init fails where the tests want a handler that cannot be loaded.
func Init() error {
	if os.Getenv("CONFORMANCE_FAIL") != "" {
		return errors.New("CONFORMANCE_FAIL is set")
	}
	return nil
}

// Handler answers one input.
func Handler(req dcf.Request) (dcf.Reply, error) {
	if len(req.Input) == 0 || req.Input[0] != '{' {
		return dcf.Bytes(req.Input), nil
	}
	var do command
	if err := json.Unmarshal(req.Input, &do); err != nil {
		return dcf.Reply{}, err
	}
	switch do.Do {
	case "text":
		return dcf.Text(do.Text), nil
	case "json":
		return dcf.JSON(do.Value)
	case "reply":
		return dcf.Reply{Body: []byte(do.Text), ContentType: do.ContentType, Metadata: do.Metadata}, nil
	case "bytes":
		return dcf.Bytes(pattern(*do.Size)), nil
	case "fail":
		return dcf.Reply{}, errors.New(do.Message)
	case "refuse":
		return dcf.Reply{}, dcf.InvalidInput("%s", do.Message)
	case "unsendable":
		return dcf.JSON(make(chan int))
	case "info":
		return about(req, do)
	case "print":
		fmt.Println(do.Text)
		return dcf.Text("printed"), nil
	case "hold":
		return dcf.Text("held " + do.Name), hold(req.Context, do)
	case "wait":
		<-req.Context.Done()
		return dcf.Reply{}, req.Context.Err()
	case "mesh":
		return mesh(req.Context, do)
	}
	return dcf.Reply{}, dcf.InvalidInput("unknown command: %s", do.Do)
}

func about(req dcf.Request, do command) (dcf.Reply, error) {
	_, hasDeadline := req.Context.Deadline()
	return dcf.JSON(map[string]any{
		"function":      req.Info.Function,
		"replica":       req.Info.Replica,
		"invocation_id": req.InvocationID,
		"header":        req.Metadata.Header(do.Header),
		"method":        req.Metadata.Method(),
		"path":          req.Metadata.Path(),
		"has_deadline":  hasDeadline,
	})
}

func mesh(ctx context.Context, do command) (dcf.Reply, error) {
	input := []byte(do.Text)
	if do.Size != nil {
		input = pattern(*do.Size)
	}
	answer, err := dcf.Call(ctx, do.Function, input)
	var failed *dcf.MeshError
	if errors.As(err, &failed) {
		return dcf.Text(failed.Code + ": " + failed.Message), nil
	}
	return dcf.Bytes(answer), err
}

// Stream answers messages; the first is the command.
func Stream(ctx context.Context, in <-chan []byte, out chan<- []byte) error {
	first, ok := <-in
	if !ok {
		return ctx.Err()
	}
	var do command
	if err := json.Unmarshal(first, &do); err != nil {
		return dcf.InvalidInput("no command: %v", err)
	}
	switch do.Do {
	case "echo":
		for message := range in {
			if !send(ctx, out, message) {
				break
			}
		}
		return ctx.Err()
	case "count":
		for number := 0; number < do.Count && send(ctx, out, pattern(*do.Size)); number++ {
		}
		return ctx.Err()
	case "fail-after":
		for number := 0; number < do.Count && send(ctx, out, []byte(strconv.Itoa(number))); number++ {
		}
		return errors.New(do.Message)
	case "kinds":
		for _, message := range []string{"bytes", "text", `{"json": 1}`} {
			send(ctx, out, []byte(message))
		}
		return ctx.Err()
	case "nothing":
		return nil
	case "wait":
		note(do, "started "+do.Name)
		defer note(do, "ended "+do.Name)
		send(ctx, out, []byte("first"))
		for range in {
		}
		return ctx.Err()
	case "take":
		for number := 0; number < do.Count; number++ {
			<-in
		}
		if err := hold(ctx, do); err != nil {
			return err
		}
		rest := 0
		for range in {
			rest++
		}
		send(ctx, out, []byte(strconv.Itoa(rest)))
		return ctx.Err()
	}
	return dcf.InvalidInput("unknown command: %s", do.Do)
}

// send gives a message unless nobody waits for it any more.
func send(ctx context.Context, out chan<- []byte, message []byte) bool {
	select {
	case out <- message:
		return true
	case <-ctx.Done():
		return false
	}
}

func hold(ctx context.Context, do command) error {
	note(do, "started "+do.Name)
	defer note(do, "ended "+do.Name)
	for {
		if _, err := os.Stat(do.Until); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// note writes a line of its own into the file that the test reads.
func note(do command, what string) {
	if do.Log == "" {
		return
	}
	file, err := os.OpenFile(do.Log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if _, err := file.WriteString(what + "\n"); err != nil {
		panic(err)
	}
}

// pattern makes bytes that tell where they belong.
func pattern(size int) []byte {
	body := make([]byte, size)
	for index := range body {
		body[index] = byte(index % 251)
	}
	return body
}
