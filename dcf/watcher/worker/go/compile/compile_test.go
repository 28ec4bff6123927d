package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const good = `package function

import "dcf"

func Handler(req dcf.Request) (dcf.Reply, error) { return dcf.Bytes(req.Input), nil }
`

// folder writes files, by name, into a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	// The go command takes nothing from the network in any of these tests.
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "")
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// compileIn compiles the handler of a folder as main would.
func compileIn(t *testing.T, dir, file string) (program string, err error) {
	t.Helper()
	module, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir)
	program = filepath.Join(t.TempDir(), "function")
	err = compile(options{source: dir, file: file, handler: "Handler", show: "src", out: program, module: module})
	if after := listing(t, dir); after != before {
		t.Errorf("the source folder has changed from\n%s to\n%s", before, after)
	}
	return program, err
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.WriteString(path + ": " + string(text) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// expectFunction checks that a program is one of ours.
func expectFunction(t *testing.T, program string) {
	t.Helper()
	output, err := exec.Command(program).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(output), "is a function of DCF") {
		t.Errorf("%v: %s", err, output)
	}
}

func TestBuilds(t *testing.T) {
	const modDCF = "module example.org/mine\n\ngo 1.19\n\nrequire dcf v0.0.0\n\n"
	for name, one := range map[string]struct {
		file  string // handler.go where it is left out
		files map[string]string
	}{
		"a package of any name": {files: map[string]string{"handler.go": good}},
		"a package main": {files: map[string]string{
			"handler.go": strings.Replace(good, "package function", "package main", 1),
		}},
		"the forms of the original": {files: map[string]string{
			"handler.go": "package main\n\nimport sdk \"dcf\"\n\nfunc Handler(req sdk.Request) string { return req.Text() }\n",
		}},
		"a name that the generated file might have used": {files: map[string]string{
			"handler.go": "package main\n\nimport . \"dcf\"\n\nvar dcf, function int\n\n" +
				"func Handler(_ Request) (answer []uint8, err error) { return }\n",
		}},
		"all three functions, in several files": {files: map[string]string{
			"handler.go": good,
			"stream.go": "package function\n\nimport c \"context\"\n\n" +
				"func Stream(ctx c.Context, in <-chan []byte, out chan<- []byte) error { return ctx.Err() }\n",
			"init.go":         "package function\n\nfunc Init() error { return nil }\n",
			"handler_test.go": "package function_test\n\nimport \"nowhere\"\n",
			"other_system.go": "//go:build plan9\n\npackage different\n",
		}},
		"a folder below that is internal": {file: "internal/handler.go", files: map[string]string{
			"internal/handler.go": good,
			"go.mod":              "module example.org/mine\n\ngo 1.19\n",
		}},
		"a module below the source folder": {file: "below/handler.go", files: map[string]string{
			"below/handler.go": good,
			"below/go.mod":     "module example.org/mine\n\ngo 1.19\n",
		}},
		"a go.mod that points elsewhere": {files: map[string]string{
			"handler.go": good,
			"go.mod":     modDCF + "replace dcf v0.0.0 => ../nowhere\n",
		}},
		"a module that is replaced by a folder": {files: map[string]string{
			"handler.go":    strings.Replace(good, `import "dcf"`, "import \"dcf\"\nimport _ \"example.org/other\"", 1),
			"go.mod":        "module example.org/mine\n\ngo 1.19\n\nrequire example.org/other v1.0.0\n\nreplace example.org/other => ./other\n",
			"other/go.mod":  "module example.org/other\n",
			"other/file.go": "package other\n",
		}},
		"a vendor folder that has dcf": {files: map[string]string{
			"handler.go":         good,
			"go.mod":             modDCF + "replace dcf => ../nowhere\n",
			"vendor/modules.txt": "# dcf v0.0.0 => ../nowhere\n## explicit; go 1.19\ndcf\n# dcf => ../nowhere\n",
			"vendor/dcf/dcf.go": "package dcf\n\nimport \"os\"\n\ntype Request struct{ Input []byte }\ntype Reply struct{}\n" +
				"type Function struct{ Handler any }\nfunc Bytes([]byte) Reply { return Reply{} }\n" +
				"func Main(Function) { print(\"this is a function of DCF\"); os.Exit(2) }\n",
		}},
		"a vendor folder that has it not": {files: map[string]string{
			"handler.go":         good,
			"go.mod":             "module example.org/mine\n\ngo 1.19\n",
			"vendor/modules.txt": "",
		}},
	} {
		one := one
		t.Run(name, func(t *testing.T) {
			file := one.file
			if file == "" {
				file = "handler.go"
			}

			program, err := compileIn(t, folder(t, one.files), file)
			if err != nil {
				t.Fatal(err)
			}

			expectFunction(t, program)
		})
	}
}

func TestSaysWhatIsWrong(t *testing.T) {
	const forms = ": expected one of:\n" +
		"\tfunc Handler(sdk.Request) (sdk.Reply, error)\n" +
		"\tfunc Handler(sdk.Request) ([]byte, error)\n" +
		"\tfunc Handler(sdk.Request) (string, error)\n" +
		"\tfunc Handler(sdk.Request) string"
	handler := func(rest string) string { return "package f\n\nimport sdk \"dcf\"\n\nfunc Handler" + rest + "\n" }
	for name, one := range map[string]struct{ text, expected string }{
		"a result of another kind": {
			handler("(req sdk.Request) int { return 1 }"),
			"src/handler.go:5: func Handler(req sdk.Request) int" + forms,
		},
		"one result too few": {
			handler("(_ sdk.Request) (sdk.Reply) { return sdk.Reply{} }"),
			"src/handler.go:5: func Handler(_ sdk.Request) sdk.Reply" + forms,
		},
		"two parameters": {
			handler("(a, b sdk.Request) string { return \"\" }"),
			"src/handler.go:5: func Handler(a, b sdk.Request) string" + forms,
		},
		"type parameters": {
			handler("[T any](req sdk.Request) string { return \"\" }"),
			"src/handler.go:5: func Handler[T any](req sdk.Request) string" + forms,
		},
		"a Stream of another kind": {
			good + "\nfunc Stream() {}\n",
			"src/handler.go:7: func Stream(): expected one of:\n" +
				"\tfunc Stream(context.Context, <-chan []byte, chan<- []byte) error",
		},
		"an Init of another kind": {
			good + "\nfunc Init() {}\n", "src/handler.go:7: func Init(): expected one of:\n\tfunc Init() error",
		},
		"no handler": {
			"package f\n\nfunc Foo() {}\n\nfunc Bar() {}\n\ntype T int\n\nfunc (T) Handler() {}\n",
			"src/handler.go: there is no func Handler or Stream in it; it has: Bar, Foo",
		},
		"nothing at all": {
			"package f\n", "src/handler.go: there is no func Handler or Stream in it; it has: no function",
		},
		"a main function": {
			strings.Replace(good, "package function", "package main", 1) + "\nfunc main() {}\n",
			"src/handler.go:7: func main: DCF brings its own; leave it out, or have it in a package of its own",
		},
		"an error that the compiler finds": {
			handler("(req sdk.Request) string { return missing }"),
			"src/handler.go:5:47: undefined: missing",
		},
		"what is no Go": {
			handler("(req sdk.Request) string { return }}"),
			"src/handler.go:5:48: syntax error: ",
		},
		"a file for another system": {
			"//go:build plan9\n\n" + good,
			"src/handler.go: the compiler leaves this file out (a name in _test.go or of another system, or its build constraint)",
		},
		"a package that is not there": {
			"package f\n\nimport (\n\tsdk \"dcf\"\n\n\t\"example.org/absent/sub\"\n)\n\nfunc Handler(req sdk.Request) string { return sub.X }\n",
			"src/handler.go:6:2: no required module provides package example.org/absent/sub; to add it:\n" +
				"\tgo get example.org/absent/sub\n" +
				"hint: run `go mod init function` and `go get example.org/absent/sub` in src, then build again",
		},
	} {
		one := one
		t.Run(name, func(t *testing.T) {
			_, err := compileIn(t, folder(t, map[string]string{"handler.go": one.text}), "handler.go")

			// The beginning: what follows a syntax error is another text in each version of Go.
			if err == nil || !strings.HasPrefix(err.Error(), one.expected) {
				t.Errorf("expected\n%s\ngot\n%v", one.expected, err)
			}
		})
	}
}

func TestErrorsOfAFolderBelowNameItsFiles(t *testing.T) {
	dir := folder(t, map[string]string{
		"go.mod":           "module example.org/mine\n\ngo 1.19\n",
		"cmd/handler.go":   strings.Replace(good, `import "dcf"`, "import \"dcf\"\nimport _ \"example.org/mine/parts\"", 1),
		"parts/broken.go":  "package parts\n\nvar X int = \"\"\n",
		"parts/go_fine.go": "package parts\n",
	})

	_, err := compileIn(t, dir, "cmd/handler.go")

	if err == nil || !strings.HasPrefix(err.Error(), "src/parts/broken.go:3:13: cannot use \"\"") {
		t.Error(err)
	}
}

func TestMissingFileAndMixedPackages(t *testing.T) {
	dir := folder(t, map[string]string{"a.go": "package a\n", "b.go": "package b\n"})

	_, missing := compileIn(t, dir, "handler.go")
	_, mixed := compileIn(t, dir, "a.go")

	if missing == nil || missing.Error() != "src/handler.go: there is no such file" {
		t.Error(missing)
	}
	if mixed == nil || mixed.Error() != "src: the folder has two packages, a (a.go) and b (b.go)" {
		t.Error(mixed)
	}
}
