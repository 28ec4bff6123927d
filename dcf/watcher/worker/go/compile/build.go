package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// buildProgram runs `go build`; its error is what the user has to read.
func buildProgram(opts options, over overlay) error {
	out := opts.out
	if over.check {
		out = os.DevNull
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-overlay", over.file, "-o", out}
	if over.module.ignoresVendor {
		args = append(args, "-mod=mod")
	}
	command := exec.Command("go", append(args, over.target)...)
	command.Dir, command.Env = over.module.root, environ()
	output, err := command.CombinedOutput()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return errors.New(complaint(opts, over, string(output)))
	}
	if err == nil && over.check { // the compiler takes what go/parser did not
		return errors.New("compile: go/parser cannot read the package; is it of another Go version than the go command?")
	}
	return err
}

// environ is the user's environment, with what a build of ours needs: no workspace of
// somebody else's, no toolchain that is fetched behind the user's back, and no C where
// it was not asked for, so that the program runs in any image.
func environ() []string {
	return append(os.Environ(), "GO111MODULE=on", "GOWORK=off", "GOTOOLCHAIN=local", "CGO_ENABLED="+cgoEnabled())
}

func cgoEnabled() string {
	if value := os.Getenv("CGO_ENABLED"); value != "" {
		return value
	}
	return "0"
}

var (
	// "./handler.go:12:3: undefined: x", and the same with a tab before it.
	position = regexp.MustCompile(`^(\s*)(\S.*?\.go)(:\d+.*)$`)
	missing  = regexp.MustCompile(`no required module provides package (\S+?)[;:]|missing go\.sum entry|` +
		`updates to go\.mod needed|cannot find module providing package`)
)

// complaint is what the go command has said, in terms of the user's files.
func complaint(opts options, over overlay, output string) string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(output), "\n") {
		if strings.HasPrefix(line, "# ") { // the package's path, which may be one of ours
			continue
		}
		if parts := position.FindStringSubmatch(line); parts != nil {
			line = parts[1] + opts.shownFrom(over.module.root, parts[2]) + parts[3]
		}
		lines = append(lines, line)
	}
	if missing.MatchString(output) {
		lines = append(lines, "hint: "+over.module.howToAdd(missing.FindStringSubmatch(output)[1])+" in "+
			opts.shownFolder(over.module.root)+", then build again")
	}
	return strings.Join(lines, "\n")
}

// shownFrom returns a path that the go command has named, as the user knows it.
func (o options) shownFrom(dir, path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if !strings.HasPrefix(path, o.source+string(filepath.Separator)) { // of a dependency
		return path
	}
	return o.shown(path)
}

func (o options) shownFolder(dir string) string {
	if shown := o.shown(dir); shown != "" {
		return shown
	}
	return "the source folder"
}
