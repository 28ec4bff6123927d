"""Bundles of functions in Go: one binary, and the compiler's words about the user's own files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcf.build.bundle import BuildResult, build_function, find_built
from dcf.build.go_module import provide_module
from dcf.build.project import FunctionConfig, load_project
from dcf.build.scaffold import init_function
from dcf.build.toolchains import default_version, find_go, list_go, version_here
from dcf.errors import BuildError
from tests.engine.commands import missing
from tests.pages import DOCS, ROOT, read_blocks

pytestmark = pytest.mark.slow

Load = Callable[..., FunctionConfig]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function without dependencies needs no network."""
    if not version_here("go"):
        missing("Go is not on this machine")
    monkeypatch.setenv("GOPROXY", "off")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The function as `init` writes it; `handler` and build arguments instead of its own."""

    def load(handler: str = "", *args: str) -> FunctionConfig:
        folder = tmp_path / "words"
        if not folder.exists():
            init_function("words", "go", tmp_path)
        if handler:
            (folder / "src/handler.go").write_text(handler)
        if args:
            config = folder / "config.yaml"
            own = f"- GO_VERSION={default_version('go')}\n"
            config.write_text(config.read_text().replace(own, "".join(f"- {arg}\n    " for arg in args) + "\n"))
        return load_project(folder).function("words")

    return load


@pytest.fixture
def build(tmp_path: Path) -> Callable[[FunctionConfig], BuildResult]:
    return lambda config: build_function(config, tmp_path / "bundles", on_output=lambda line: None)


def test_a_bundle_is_one_binary_beside_the_sources(load: Load, build: Callable[[FunctionConfig], BuildResult]) -> None:
    result = build(load())

    assert result.folder is not None
    assert result.manifest is not None
    binary = result.folder / "bin/function"
    assert result.manifest.command == (str(binary),)
    assert binary.stat().st_mode & 0o111
    assert result.manifest.version == find_go().version_text
    assert (result.folder / "src/handler.go").is_file()
    assert not result.reused
    assert build(load()).reused


def test_the_shells_variables_for_go_make_no_other_binary(
    load: Load, build: Callable[[FunctionConfig], BuildResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"GOARCH": "arm64", "GOOS": "windows", "GOFLAGS": "-tags=special", "CGO_ENABLED": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HOME")

    result = build(load())

    assert result.manifest is not None
    # Started without its sockets it says what it is: it runs here.
    said = subprocess.run(result.manifest.command, capture_output=True, text=True, check=False)
    assert (said.returncode, "watcher" in said.stderr) == (2, True), said


def test_what_goes_into_the_binary_makes_another_bundle(
    load: Load, build: Callable[[FunctionConfig], BuildResult], tmp_path: Path
) -> None:
    first = build(load())

    second = load('package other\n\nimport "dcf"\n\nfunc Handler(req dcf.Request) string { return "hi" }\n')
    assert find_built(second, tmp_path / "bundles") is None
    assert build(second).reference != first.reference
    # cgo makes another binary of the same sources.
    assert find_built(load("", "CGO_ENABLED=1"), tmp_path / "bundles") is None


def test_a_compile_error_names_the_users_file_and_line(
    load: Load, build: Callable[[FunctionConfig], BuildResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = 'package function\n\nimport "dcf"\n\nfunc Handler(req dcf.Request) string {\n\treturn nothing\n}\n'

    with pytest.raises(BuildError, match=r"could not compile handler.go with Go 1\.") as refusal:
        build(load(wrong))

    assert "words/src/handler.go:6:9: undefined: nothing" in str(refusal.value)
    assert not list((tmp_path / "bundles/words").glob("[0-9a-f]*"))


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        ("package function\n\nfunc Helper() {}\n", "there is no func Handler or Stream"),
        ('package function\n\nimport "dcf"\n\nfunc Handler(req dcf.Request) int { return 1 }\n', "handler.go:5"),
        ("package function\n\nfunc {\n", "handler.go:3"),
    ],
    ids=["no handler", "wrong form", "no Go"],
)
def test_a_handler_that_is_none_is_refused_with_what_is_expected(
    load: Load, build: Callable[[FunctionConfig], BuildResult], handler: str, says: str
) -> None:
    with pytest.raises(BuildError) as refusal:
        build(load(handler))

    assert says in str(refusal.value)


def test_the_originals_form_without_a_go_mod_builds(
    load: Load, build: Callable[[FunctionConfig], BuildResult], tmp_path: Path
) -> None:
    config = load('package main\n\nimport sdk "dcf"\n\nfunc Handler(req sdk.Request) string { return "hi" }\n')
    (tmp_path / "words/src/go.mod").unlink()

    assert build(config).manifest is not None


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "languages.md"], ids=lambda page: page.name)
def test_what_the_pages_show_compiles(load: Load, build: Callable[[FunctionConfig], BuildResult], page: Path) -> None:
    blocks = [block.text for block in read_blocks(page) if block.kind == "go"]
    assert blocks

    for text in blocks:
        if not text.startswith("package"):
            uses = {name for name in ("context", "dcf") if f"{name}." in text}
            text = "package function\n\n" + "".join(f'import "{name}"\n' for name in sorted(uses)) + text
        if "answer(" in text:
            text += "\nfunc answer(message []byte) []byte { return message }\n"
        assert build(load(text)).manifest is not None


def test_a_go_that_is_not_there_is_said_with_those_that_are(
    load: Load, build: Callable[[FunctionConfig], BuildResult]
) -> None:
    with pytest.raises(BuildError, match=r"Go 1\.99 or later is not on this machine; there: 1\.") as refusal:
        build(load("", "GO_VERSION=1.99"))

    assert "GO_VERSION in build_args" in str(refusal.value)
    assert all(one.version_text in str(refusal.value) for one in list_go())


def test_the_module_beside_the_sources_is_renewed_by_every_build_and_no_part_of_the_function(
    load: Load, build: Callable[[FunctionConfig], BuildResult], tmp_path: Path
) -> None:
    first = build(load())
    module = tmp_path / "words/.dcf/go"
    own = (module / "reply.go").read_text()

    (module / "reply.go").write_text("of an older DCF")
    assert build(load()).reused
    assert (module / "reply.go").read_text() == own
    shutil.rmtree(module.parent)
    assert build(load()).reused
    assert (module / "reply.go").read_text() == own
    assert (module.parent / ".gitignore").read_text().endswith("*\n")
    assert first.folder is not None
    assert not list(first.folder.rglob(".dcf"))


def test_the_module_is_put_nowhere_but_where_go_mod_looks_for_it(tmp_path: Path) -> None:
    function, source = tmp_path / "f", tmp_path / "f/src"
    source.mkdir(parents=True)
    for text in ("", "replace dcf => ../elsewhere\n", "// replace dcf => ../.dcf/go\n", "replace dcf => ./.dcf/go\n"):
        (source / "go.mod").write_text(f"module function\n\n{text}")
        assert provide_module(function, source) is None
        assert provide_module(source, source) is None  # config.yaml among the sources
    (source / "go.mod").write_text("module function\n\nreplace (\n\tdcf v0.0.0 => ../.dcf/go\n)\n")
    assert provide_module(function, source) == function / ".dcf/go"
    assert provide_module(function, source) is None


def test_builds_at_once_share_the_module(tmp_path: Path) -> None:
    function, source = tmp_path / "f", tmp_path / "f/src"
    source.mkdir(parents=True)
    (source / "go.mod").write_text("module function\n\nreplace dcf => ../.dcf/go\n")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: provide_module(function, source), range(40)))

    assert [one for one in made if one is not None] == [function / ".dcf/go"]


@pytest.mark.parametrize(("path", "kept"), [("./lib", True), ("../lib", False), ("/opt/lib", False)])
def test_a_module_in_a_folder_is_one_of_the_sources(
    load: Load, build: Callable[[FunctionConfig], BuildResult], tmp_path: Path, path: str, kept: bool
) -> None:
    config = load(
        'package function\n\nimport "lib"\n\nimport "dcf"\n\nfunc Handler(req dcf.Request) string { return lib.Name }\n'
    )
    source = tmp_path / "words/src"
    (source / "lib").mkdir()
    (source / "lib/go.mod").write_text("module lib\n\ngo 1.19\n")
    (source / "lib/lib.go").write_text('package lib\n\nconst Name = "lib"\n')
    with (source / "go.mod").open("a") as out:
        out.write(f"\nrequire lib v0.0.0\n\nreplace lib => {path}\n")

    if kept:
        assert build(config).manifest is not None
    else:
        with pytest.raises(BuildError, match="lib is replaced by a folder outside of the sources"):
            build(config)


def test_a_handler_that_was_asked_for_is_not_passed_over_for_a_stream(
    load: Load, build: Callable[[FunctionConfig], BuildResult], tmp_path: Path
) -> None:
    form = "func Stream(ctx context.Context, in <-chan []byte, out chan<- []byte) error { return nil }\n"
    stream = f'package function\n\nimport "context"\n\n{form}'
    assert build(load(stream)).manifest is not None
    config = tmp_path / "words/config.yaml"
    config.write_text(config.read_text().replace("name: Handler", "name: Predict"))

    with pytest.raises(BuildError, match="there is no func Predict"):
        build(load())
