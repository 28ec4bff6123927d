package dcf

import (
	"encoding/json"
	"unicode/utf8"
)

// Reply is an answer. Reply{Body: data} is one of plain bytes; Text and JSON make
// the other kinds.
type Reply struct {
	// Body belongs to DCF once the handler has returned.
	Body []byte
	// ContentType of the answer; empty: as the kind of body has it.
	ContentType string
	// Metadata are headers of the answer.
	Metadata map[string]string

	content byte
}

// Content kinds, as they travel.
const (
	contentBytes = 0
	contentText  = 1
	contentJSON  = 2
)

// Bytes makes an answer of bytes: application/octet-stream.
func Bytes(body []byte) Reply {
	return Reply{Body: body}
}

// Text makes an answer of text: text/plain. What is not UTF-8 goes as bytes.
func Text(text string) Reply {
	if !utf8.ValidString(text) {
		return Reply{Body: []byte(text)}
	}
	return Reply{Body: []byte(text), content: contentText}
}

// JSON makes an answer of whatever encoding/json can say: application/json.
func JSON(value any) (Reply, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return Reply{}, err
	}
	return Reply{Body: body, content: contentJSON}, nil
}

// encodeMetadata returns the reply's own metadata as they travel; length is that
// of the body, where it goes in several frames, else 0.
func (r Reply) encodeMetadata(length int) []byte {
	if r.ContentType == "" && len(r.Metadata) == 0 && length == 0 {
		return nil
	}
	encoded, _ := json.Marshal(struct { // of texts and a number: it cannot fail
		ContentType string            `json:"content_type,omitempty"`
		Metadata    map[string]string `json:"metadata,omitempty"`
		Length      int               `json:"length,omitempty"`
	}{r.ContentType, r.Metadata, length})
	return encoded
}
