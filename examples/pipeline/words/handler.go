// Package function counts the words of a text.
package function

import (
	"fmt"
	"strings"
	"unicode"

	"dcf"
)

// Handler answers with a JSON object: each word of the input, in small letters, and how often it is there.
func Handler(req dcf.Request) (dcf.Reply, error) {
	trace := req.Metadata.Header("traceparent")
	if trace == "" {
		trace = "no trace"
	}
	fmt.Println("words", trace)
	counts := map[string]int{}
	for _, word := range strings.FieldsFunc(strings.ToLower(req.Text()), notOfAWord) {
		counts[word]++
	}
	return dcf.JSON(counts)
}

func notOfAWord(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r)
}
