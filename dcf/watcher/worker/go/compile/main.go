// Command compile builds a function's program: the user's package, this module's
// package dcf, and a main function that joins the two.
//
//	go run ./compile -source DIR [-file handler.go] [-handler Handler] [-show DIR] [-ca FILE] -out FILE
//	go run ./compile -source DIR [-ca FILE] -download
//
// The second form fetches what go.mod asks for, as far as that can be told without
// the sources: an image's next build finds it.
//
// It runs in the folder of this module, on a laptop and in the builder stage of an
// image alike. It writes nothing into the source folder: what has to be there as
// well is laid over it for the go command alone (go build -overlay).
//
// Exit status 0: built. 1: the function cannot be built; what is wrong stands on
// standard error. 2: wrong flags.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// defaultHandler may be missing where there is a Stream, any other name was asked for.
const defaultHandler = "Handler"

// options are the flags.
type options struct {
	source  string // the function's folder, absolute
	file    string // the handler's file, relative to it
	handler string // the name of its function
	show    string // what the user knows the folder as
	out     string // the program, absolute; empty: nothing is built
	module  string // the folder of the module dcf, absolute
}

func main() {
	opts, err := readFlags()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compile:", err)
		os.Exit(2)
	}
	if opts.out == "" {
		download(opts)
		return
	}
	if err := compile(opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readFlags() (options, error) {
	source := flag.String("source", "", "the function's source `folder`")
	file := flag.String("file", "handler.go", "the `file` with the handler, relative to the source folder")
	handler := flag.String("handler", defaultHandler, "the `name` of the handler's function")
	show := flag.String("show", "", "the `folder` that messages name before a file (default: the source folder)")
	out := flag.String("out", "", "the `file` to write the program to")
	ca := flag.String("ca", "", "a `file` with certificates that a proxy of modules is trusted by, if it is there")
	fetch := flag.Bool("download", false, "fetch modules and build nothing")
	flag.Parse()
	if *source == "" || *fetch == (*out != "") || flag.NArg() > 0 {
		return options{}, errors.New("expected -source DIR, either -out FILE or -download, and nothing but flags")
	}
	if _, err := os.Stat(*ca); *ca != "" && err == nil {
		os.Setenv("SSL_CERT_FILE", *ca)
	}
	opts := options{file: filepath.Clean(*file), handler: *handler, show: *show}
	if filepath.IsAbs(opts.file) || strings.HasPrefix(opts.file, "..") {
		return options{}, fmt.Errorf("-file %s is outside of the source folder", *file)
	}
	if !isSet("show") {
		opts.show = *source
	}
	var err error
	for _, path := range []struct {
		from string
		to   *string
	}{{*source, &opts.source}, {*out, &opts.out}, {".", &opts.module}} {
		if path.from == "" {
			continue
		}
		if *path.to, err = filepath.Abs(path.from); err != nil {
			return options{}, err
		}
	}
	// The go command names files by their real path.
	if real, err := filepath.EvalSymlinks(opts.source); err == nil {
		opts.source = real
	}
	return opts, nil
}

// isSet tells an empty flag from none.
func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// compile builds the program, or says why that cannot be done.
func compile(opts options) error {
	pack, err := readPackage(opts)
	if err != nil {
		return err
	}
	temporary, err := os.MkdirTemp("", "dcf-compile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	over, err := layOver(opts, pack, temporary)
	if err != nil {
		return err
	}
	return buildProgram(opts, over)
}
