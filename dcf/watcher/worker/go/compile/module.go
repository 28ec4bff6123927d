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
	root          string // its folder, absolute
	path          string
	edited        string // the go.mod that the go command shall see instead; empty: its own
	isNew         bool   // there is no go.mod yet
	ignoresVendor bool   // the vendor folder, which knows nothing of package dcf
	vendorsDCF    bool   // it has a copy of package dcf, perhaps an old one
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
	var described goMod
	if err := json.Unmarshal(description, &described); err != nil {
		return module{}, err
	}
	if err := described.checkReplaced(opts, mod.root); err != nil {
		return module{}, err
	}
	mod.path = described.Module.Path
	vendored, has := readVendored(mod.root)
	if has {
		mod.vendorsDCF = true
		return mod, nil
	}
	mod.ignoresVendor = vendored
	mod.edited = edited
	// A replacement of one version alone would come before ours.
	_, err = runGo(temporary, "mod", "edit", "-require=dcf@v0.0.0", "-dropreplace=dcf@v0.0.0",
		"-replace=dcf="+opts.module, edited)
	return mod, err
}

// goMod is what `go mod edit -json` says.
type goMod struct {
	Module  struct{ Path string }
	Replace []struct {
		Old struct{ Path string }
		New struct{ Path, Version string }
	}
}

// checkReplaced refuses modules in folders outside of the sources: they are not there
// when an image is built, and a change in them would not make another function.
func (m goMod) checkReplaced(opts options, root string) error {
	for _, one := range m.Replace {
		if one.New.Version != "" || one.Old.Path == "dcf" {
			continue
		}
		folder := one.New.Path
		if !filepath.IsAbs(folder) {
			folder = filepath.Join(root, folder)
		}
		if filepath.IsAbs(one.New.Path) || !strings.HasPrefix(folder, opts.source+string(filepath.Separator)) {
			return fmt.Errorf("%s: %s is replaced by a folder outside of the sources (%s): publish it, or put it into them",
				opts.shown(filepath.Join(root, "go.mod")), one.Old.Path, one.New.Path)
		}
	}
	return nil
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
