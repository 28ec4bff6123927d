package main

import (
	"go/ast"
	"go/printer"
	"go/token"
	"strings"
)

// The forms that the functions may have, as they are written where dcf is imported
// under its own name; dcf/function.go takes the same ones.
var (
	handlerForms = []string{
		"func(dcf.Request) (dcf.Reply, error)",
		"func(dcf.Request) ([]byte, error)",
		"func(dcf.Request) (string, error)",
		"func(dcf.Request) string",
	}
	streamForms = []string{"func(context.Context, <-chan []byte, chan<- []byte) error"}
	initForms   = []string{"func() error"}
)

// function is a function of the user's package.
type function struct {
	declaration *ast.FuncDecl
	position    token.Position
	imports     map[string]string // in its file: path to the name there
}

// importedAs returns the names that a file uses for what the forms are made of.
func importedAs(file *ast.File) map[string]string {
	names := map[string]string{}
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, "`\"")
		name := path
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[path] = name
	}
	return names
}

// hasOneOf compares texts: there are no types yet, and a form has few ways to be
// written.
func (f function) hasOneOf(forms []string) bool {
	own := f.form()
	for _, form := range forms {
		if f.inItsNames(form) == own {
			return true
		}
	}
	return false
}

// form returns the function's type without the names of its parameters.
func (f function) form() string {
	kind := f.declaration.Type
	if kind.TypeParams != nil {
		return "" // none of the forms
	}
	var text strings.Builder
	text.WriteString("func(" + types(kind.Params) + ")")
	switch results := types(kind.Results); {
	case results == "":
	case kind.Results.NumFields() == 1:
		text.WriteString(" " + results)
	default:
		text.WriteString(" (" + results + ")")
	}
	return text.String()
}

// types lists the types of parameters or results.
func types(fields *ast.FieldList) string {
	if fields == nil {
		return ""
	}
	var all []string
	for _, field := range fields.List {
		kind := source(field.Type)
		if kind == "[]uint8" {
			kind = "[]byte"
		}
		all = append(all, kind)
		for more := 1; more < len(field.Names); more++ { // a, b int
			all = append(all, kind)
		}
	}
	return strings.Join(all, ", ")
}

// inItsNames writes a form as the function's file would.
func (f function) inItsNames(form string) string {
	for _, path := range []string{"dcf", "context"} {
		name := f.imports[path]
		switch name {
		case "", path:
		case ".":
			form = strings.ReplaceAll(form, path+".", "")
		default:
			form = strings.ReplaceAll(form, path+".", name+".")
		}
	}
	return form
}

// text returns the function's head as it is written.
func (f function) text() string {
	head := *f.declaration
	head.Body, head.Doc = nil, nil
	return source(&head)
}

// listed returns the forms, one a line.
func (f function) listed(forms []string) string {
	name := f.declaration.Name.Name
	var lines []string
	for _, form := range forms {
		lines = append(lines, "\tfunc "+name+strings.TrimPrefix(f.inItsNames(form), "func"))
	}
	return strings.Join(lines, "\n")
}

func source(node any) string {
	var text strings.Builder
	_ = printer.Fprint(&text, token.NewFileSet(), node) // a Builder takes everything
	return strings.Join(strings.Fields(text.String()), " ")
}
