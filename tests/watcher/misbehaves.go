// Package function does what test_go.py asks it to.
package function

import (
	"bytes"
	"fmt"
	"os"
	"runtime"

	"dcf"
)

func Handler(req dcf.Request) (dcf.Reply, error) {
	switch req.Text() {
	case "panic":
		var weights []int
		weights[7]++
	case "panic elsewhere":
		go func() { panic("in a goroutine of its own") }()
		select {}
	case "exit":
		runtime.Goexit()
	case "leak":
		go func() { <-req.Context.Done() }()
	case "leak for ever":
		go func() { select {} }()
	case "block":
		select {}
	case "print":
		line := append(bytes.Repeat([]byte("x"), 99), '\n')
		for written := 0; written < 10_000_000; written += len(line) {
			os.Stdout.Write(line)
		}
		fmt.Println("all is printed")
	case "count":
		return dcf.JSON(runtime.NumGoroutine())
	}
	return dcf.Bytes(req.Input), nil
}
