package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// module is the Go module that the user's package belongs to.
type module struct {
	root         string // its folder, absolute
	path         string
	edited       string // the go.mod that the go command shall see instead; empty: its own
	isNew        bool   // there is no go.mod yet
	ignoreVendor bool   // the vendor folder, which knows nothing of package dcf
}

// readModule finds the module and makes a go.mod that knows where package dcf is.
func readModule(opts options, pack userPackage, temporary string) (module, error) {
	mod := module{root: moduleRoot(opts, pack.dir)}
	edited := filepath.Join(temporary, "go.mod")
	switch text, err := os.ReadFile(filepath.Join(mod.root, "go.mod")); {
	case os.IsNotExist(err):
		// With the version of the go command, so that the user has all of its language.
		if _, err := runGo(temporary, "mod", "init", "function"); err != nil {
			return module{}, err
		}
		mod.isNew = true
	case err != nil:
		return module{}, err
	default:
		if err := os.WriteFile(edited, text, 0o600); err != nil {
			return module{}, err
		}
	}
	description, err := runGo(temporary, "mod", "edit", "-json", edited)
	if err != nil {
		return module{}, fmt.Errorf("%s: %w", opts.shown(filepath.Join(mod.root, "go.mod")), err)
	}
	var described struct{ Module struct{ Path string } }
	if err := json.Unmarshal(description, &described); err != nil {
		return module{}, err
	}
	mod.path = described.Module.Path
	vendored, has := readVendored(mod.root)
	if has {
		return mod, nil
	}
	mod.ignoreVendor = vendored
	mod.edited = edited
	// A replacement of one version alone would come before ours.
	_, err = runGo(temporary, "mod", "edit", "-require=dcf@v0.0.0", "-dropreplace=dcf@v0.0.0",
		"-replace=dcf="+opts.module, edited)
	return mod, err
}

// moduleRoot returns the folder of the nearest go.mod between the package and the
// source folder; the source folder where there is none.
func moduleRoot(opts options, dir string) string {
	for ; dir != opts.source; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	return opts.source
}

// importPath returns that of a folder in the module.
func (m module) importPath(dir string) string {
	relative, err := filepath.Rel(m.root, dir)
	if err != nil {
		return m.path
	}
	return path.Join(m.path, filepath.ToSlash(relative))
}

// howToAdd says what to run in the module's folder where a package is missing; its
// path may not be known. The -e is for package dcf, which the user's own go.mod need
// not know.
func (m module) howToAdd(missing string) string {
	run := "`go mod tidy -e`"
	if missing != "" {
		run = "`go get " + missing + "`"
	}
	if m.isNew {
		run = "`go mod init " + m.path + "` and " + run
	}
	return "run " + run
}

// readVendored says whether there is a vendor folder, and whether it has dcf.
func readVendored(root string) (vendored, hasDCF bool) {
	text, err := os.ReadFile(filepath.Join(root, "vendor", "modules.txt"))
	return err == nil, strings.Contains("\n"+string(text), "\n# dcf ")
}

// runGo runs the go command and returns what it has printed.
func runGo(dir string, args ...string) ([]byte, error) {
	command := exec.Command("go", args...)
	command.Dir, command.Env = dir, environ()
	output, err := command.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return nil, fmt.Errorf("%s", strings.TrimSpace(string(exit.Stderr)))
	}
	return output, err
}
