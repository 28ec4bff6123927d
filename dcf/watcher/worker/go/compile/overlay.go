package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// generatedName is that of the file, or folder, that is laid over the user's. Nobody
// else has such a name, and the go command sorts it last.
const generatedName = "zz_dcf_main"

// overlay is what the go command gets to see beside the user's files.
type overlay struct {
	file   string // JSON, for `go build -overlay`
	target string // the package to build, relative to the module's root
	module module
	check  bool // it is the user's package alone, for the compiler to complain about
}

// layOver makes what the build needs beside the user's files in the temporary
// folder: a main function, and a go.mod that says where the module dcf is.
func layOver(opts options, pack userPackage, temporary string) (overlay, error) {
	mod, err := readModule(opts, pack, temporary)
	if err != nil {
		return overlay{}, err
	}
	target := pack.dir
	laid := map[string]string{}
	if mod.edited != "" {
		laid[filepath.Join(mod.root, "go.mod")] = mod.edited
	}
	if mod.vendorsDCF {
		if err := layOverVendored(laid, filepath.Join(mod.root, "vendor", "dcf"), opts.module); err != nil {
			return overlay{}, err
		}
	}
	if !pack.unparsed {
		// A package of the user's that is no program is imported by one in a folder
		// below it, which may import it even where it is internal.
		if pack.name != "main" {
			target = filepath.Join(target, generatedName)
		}
		entry := filepath.Join(temporary, "main.go")
		if err := os.WriteFile(entry, entryOf(pack, mod.importPath(pack.dir)), 0o600); err != nil {
			return overlay{}, err
		}
		laid[filepath.Join(target, generatedName+".go")] = entry
	}
	encoded, err := json.Marshal(map[string]any{"Replace": laid})
	if err != nil {
		return overlay{}, err
	}
	file := filepath.Join(temporary, "overlay.json")
	if err := os.WriteFile(file, encoded, 0o600); err != nil {
		return overlay{}, err
	}
	relative, err := filepath.Rel(mod.root, target)
	if err != nil {
		return overlay{}, err
	}
	return overlay{file, "./" + filepath.ToSlash(relative), mod, pack.unparsed}, nil
}

// layOverVendored puts this module's files in the place of a vendored copy, which may be
// of another DCF than the one that builds.
func layOverVendored(laid map[string]string, vendored, module string) error {
	for _, folder := range []string{vendored, module} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil {
			return err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			// A file of the copy that this module does not have is laid over by nothing.
			laid[filepath.Join(vendored, filepath.Base(file))] = ""
			if folder == module {
				laid[filepath.Join(vendored, filepath.Base(file))] = file
			}
		}
	}
	return nil
}
