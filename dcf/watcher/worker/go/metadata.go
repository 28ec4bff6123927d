package dcf

import (
	"encoding/json"
	"strings"
	"sync"
)

// Metadata is what the caller sent beside the body. It is read when it is first
// asked for anything; most handlers never do.
type Metadata struct {
	lazy *lazyMetadata
}

type lazyMetadata struct {
	raw  string // JSON, or nothing
	once sync.Once
	// Other keys, and values of another kind than expected, are none of ours.
	method, path, query string
	headers             map[string]string
}

// Method returns the HTTP method; empty where the call came another way.
func (m Metadata) Method() string { return m.read().method }

// Path returns the part of the URL's path after the function's name, with its
// slash; empty where the call came another way.
func (m Metadata) Path() string { return m.read().path }

// Query returns the URL's query as it was sent, for url.ParseQuery.
func (m Metadata) Query() string { return m.read().query }

// Header returns the header of that name, in whatever case; empty where there is
// none.
func (m Metadata) Header(name string) string {
	headers := m.read().headers
	if value, ok := headers[name]; ok {
		return value
	}
	for key, value := range headers {
		if strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}

// Headers returns all headers, under the names that the caller gave them. The
// map is the call's own: do not change it where several goroutines read it.
func (m Metadata) Headers() map[string]string { return m.read().headers }

func (m Metadata) read() *lazyMetadata {
	if m.lazy == nil { // a Request that a test of the handler has made
		return &lazyMetadata{}
	}
	m.lazy.once.Do(m.lazy.parse)
	return m.lazy
}

func (l *lazyMetadata) parse() {
	var values map[string]json.RawMessage
	if l.raw == "" || json.Unmarshal([]byte(l.raw), &values) != nil {
		return
	}
	for name, target := range map[string]any{
		"method": &l.method, "path": &l.path, "query": &l.query, "headers": &l.headers,
	} {
		if value, ok := values[name]; ok {
			_ = json.Unmarshal(value, target) // the watcher hands on what it does not look into
		}
	}
}
