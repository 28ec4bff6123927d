package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// download fetches the modules that go.mod and go.sum in the source folder ask for.
// It is no more than a head start, so what goes wrong is said and nothing else: the
// build itself, which has all sources, fails with the better message.
func download(opts options) {
	if err := fetchModules(opts); err != nil {
		fmt.Fprintln(os.Stderr, "compile: not all modules were fetched ahead:", err)
	}
}

func fetchModules(opts options) error {
	if _, err := os.Stat(filepath.Join(opts.source, "go.mod")); os.IsNotExist(err) {
		return nil
	}
	temporary, err := os.MkdirTemp("", "dcf-compile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	mod, err := readModule(opts, userPackage{dir: opts.source}, temporary)
	if err != nil || mod.edited == "" {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(opts.source, "go.sum"))
	if err == nil {
		err = os.WriteFile(filepath.Join(temporary, "go.sum"), sums, 0o600)
	}
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	_, err = runGo(temporary, "mod", "download")
	return err
}
