package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"time"
)

// A server that is silent for so long is counted as a socket error.
const timeout = 30 * time.Second

// connection is one of HTTP/1.1 that is kept; its request is always the same.
type connection struct {
	net.Conn
	reader *bufio.Reader
}

func dial(given options) (*connection, error) {
	socket, err := net.Dial("tcp", given.target.Host)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: socket, reader: bufio.NewReaderSize(socket, 64<<10)}, nil
}

// dialAll opens them before the clock starts.
func dialAll(given options) ([]*connection, error) {
	found := make([]*connection, given.connections)
	for i := range found {
		var err error
		if found[i], err = dial(given); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func requestBytes(given options) []byte {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		given.target.RequestURI(), given.target.Host, given.contentType, len(given.body))
	return append([]byte(head), given.body...)
}

func (c *connection) send(request []byte) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := c.Write(request)
	return err
}

func (c *connection) answer() (*http.Response, error) {
	return http.ReadResponse(c.reader, nil)
}
