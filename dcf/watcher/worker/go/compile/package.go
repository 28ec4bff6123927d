package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// userPackage is the package of the handler's file, as far as it can be known
// without types.
type userPackage struct {
	dir      string // absolute
	name     string
	handler  string // the handler's function; empty: there is a Stream alone
	stream   bool
	init     bool
	unparsed bool // the compiler has to say what is wrong with it
}

// readPackage finds the functions that the worker calls, and checks their forms.
func readPackage(opts options) (userPackage, error) {
	path := filepath.Join(opts.source, opts.file)
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return userPackage{}, fmt.Errorf("%s: there is no such file", opts.shown(path))
	}
	names, err := filesOf(opts, path)
	if err != nil {
		return userPackage{}, err
	}
	pack := userPackage{dir: filepath.Dir(path)}
	positions := token.NewFileSet()
	functions := map[string]function{}
	for _, name := range names {
		file, err := parser.ParseFile(positions, filepath.Join(pack.dir, name), nil, parser.SkipObjectResolution)
		var list scanner.ErrorList
		if errors.As(err, &list) {
			return userPackage{dir: pack.dir, unparsed: true}, nil
		} else if err != nil {
			return userPackage{}, err
		}
		pack.name = file.Name.Name
		for _, declaration := range file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv == nil {
				functions[f.Name.Name] = function{f, positions.Position(f.Pos()), importedAs(file)}
			}
		}
	}
	return pack, pack.choose(opts, functions)
}

// filesOf returns the names of the files that the compiler takes from the folder of
// the handler's file.
func filesOf(opts options, path string) ([]string, error) {
	context := build.Default
	context.CgoEnabled = cgoEnabled() == "1"
	found, err := context.ImportDir(filepath.Dir(path), build.IgnoreVendor)
	var several *build.MultiplePackageError
	if errors.As(err, &several) {
		return nil, fmt.Errorf("%s: the folder has two packages, %s (%s) and %s (%s)", opts.shown(filepath.Dir(path)),
			several.Packages[0], several.Files[0], several.Packages[1], several.Files[1])
	}
	names := append(found.GoFiles, found.CgoFiles...)
	for _, name := range append(names, found.InvalidGoFiles...) {
		if name == filepath.Base(path) {
			return names, nil
		}
	}
	return nil, fmt.Errorf("%s: the compiler leaves this file out (a name in _test.go or of another system, "+
		"or its build constraint)", opts.shown(path))
}

// choose fills in what there is of the handler, Stream and Init.
func (p *userPackage) choose(opts options, functions map[string]function) error {
	if own, ok := functions["main"]; ok && p.name == "main" {
		return opts.errorAt(own, "func main: DCF brings its own; leave it out, or have it in a package of its own")
	}
	for _, one := range []struct {
		name  string
		forms []string
		found func(name string)
	}{
		{opts.handler, handlerForms, func(name string) { p.handler = name }},
		{"Stream", streamForms, func(string) { p.stream = true }},
		{"Init", initForms, func(string) { p.init = true }},
	} {
		f, ok := functions[one.name]
		if !ok {
			continue
		}
		if !f.hasOneOf(one.forms) {
			return opts.errorAt(f, "%s: expected one of:\n%s", f.text(), f.listed(one.forms))
		}
		if p.name != "main" && !ast.IsExported(one.name) {
			return opts.errorAt(f, "func %s: its name has to begin with a capital letter", one.name)
		}
		one.found(one.name)
	}
	if p.handler == "" && (!p.stream || opts.handler != defaultHandler) {
		return fmt.Errorf("%s: there is no func %s or Stream in it; it has: %s",
			opts.shown(filepath.Join(opts.source, opts.file)), opts.handler, listed(functions))
	}
	return nil
}

func listed(functions map[string]function) string {
	var names []string
	for name := range functions {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "no function"
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// shown returns a path as the user knows it.
func (o options) shown(path string) string {
	relative, err := filepath.Rel(o.source, path)
	if err != nil {
		return path
	}
	return filepath.Join(o.show, relative)
}

func (o options) errorAt(f function, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", o.shown(f.position.Filename), f.position.Line, fmt.Sprintf(format, args...))
}
