"""Bundles of functions in Node.js: what npm installs is shared, what is wrong is said with its line."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dcf.build.bundle import BuildResult, build_function
from dcf.build.project import load_project
from dcf.build.scaffold import init_function
from dcf.build.toolchains import find_node, list_node, version_here
from dcf.errors import BuildError
from tests.engine.commands import missing
from tests.pages import DOCS, ROOT, read_blocks

pytestmark = pytest.mark.slow

USES = 'const shout = require("shout");\nexports.Handler = (req) => shout(req.text);\n'


@pytest.fixture(autouse=True)
def _node() -> None:
    if not version_here("node"):
        missing("Node.js is not on this machine")


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    """The address of a package, as npm takes it, on a server of our own."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "shout.tgz", "w:gz") as tar:
        files = {
            "package.json": '{"name": "shout", "version": "1.0.0", "main": "index.js"}',
            "index.js": "module.exports = (text) => text.toUpperCase();",
        }
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/shout.tgz"
    server.shutdown()
    thread.join()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., BuildResult]:
    """The function as `init` writes it, with another handler or package.json."""

    def build(handler: str = "", package: dict[str, Any] | str | None = None, version: str = "") -> BuildResult:
        folder = tmp_path / "words"
        if not folder.exists():
            init_function("words", "node", tmp_path)
        if handler:
            (folder / "src/handler.js").write_text(handler)
        if package is not None:
            text = package if isinstance(package, str) else json.dumps(package)
            (folder / "src/package.json").write_text(text)
        if version:
            config = folder / "config.yaml"
            own = f"NODE_VERSION={find_node().version[0]}"
            config.write_text(config.read_text().replace(own, f"NODE_VERSION={version}"))
        config_of = load_project(folder).function("words")
        return build_function(config_of, tmp_path / "bundles", on_output=lambda line: None)

    return build


def run_node(result: BuildResult, code: str) -> str:
    assert result.manifest is not None
    assert result.folder is not None
    return subprocess.run(
        [*result.manifest.command, "-e", code], cwd=result.folder / "src", capture_output=True, text=True, check=True
    ).stdout


def test_a_bundle_is_its_sources_and_the_machines_node(build: Callable[..., BuildResult]) -> None:
    result = build()

    assert result.manifest is not None
    assert result.manifest.command == (find_node().path,)
    assert run_node(result, "console.log(typeof require('./handler.js').Handler)") == "function\n"
    assert build().reused


def test_packages_are_installed_once_and_shared(build: Callable[..., BuildResult], package: str) -> None:
    first = build(USES, {"dependencies": {"shout": package}, "scripts": {"postinstall": "node not-here.js"}})
    second = build(USES + "// changed\n")

    assert first.reference != second.reference
    assert run_node(second, "console.log(require('shout')('hey'))") == "HEY\n"
    assert first.folder is not None
    assert second.folder is not None
    assert (first.folder / "node_modules").resolve() == (second.folder / "node_modules").resolve()
    assert any("package-lock.json" in notice for notice in second.notices)


@pytest.mark.parametrize("change", ["overrides", ".npmrc"])
def test_what_decides_what_is_installed_makes_another_installation(
    build: Callable[..., BuildResult], package: str, tmp_path: Path, change: str
) -> None:
    wanted: dict[str, Any] = {"dependencies": {"shout": package}}
    first = build(USES, wanted)
    if change == "overrides":
        second = build(USES, wanted | {"overrides": {"other": "1.0.0"}})
    else:
        (tmp_path / "words/src/.npmrc").write_text("fund=false\n")
        second = build()

    assert first.folder is not None
    assert second.folder is not None
    modules = (second.folder / "node_modules").resolve()
    assert (first.folder / "node_modules").resolve() != modules
    assert not (modules.parent / ".npmrc").exists()  # it may hold a password


def test_a_package_that_does_not_exist_is_shown_with_npms_own_reason(
    build: Callable[..., BuildResult], package: str
) -> None:
    with pytest.raises(BuildError, match="could not install the packages of ") as refusal:
        build(USES, {"dependencies": {"nothing": package.replace("shout", "nothing")}})

    assert "404" in str(refusal.value)


def test_a_syntax_error_is_said_with_its_line(build: Callable[..., BuildResult]) -> None:
    with pytest.raises(BuildError) as refusal:
        build("exports.Handler = (req) => {\n  return (;\n};\n")

    assert "handler.js:2" in str(refusal.value)
    assert "SyntaxError" in str(refusal.value)


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("{", "package.json: cannot be read as JSON"),
        ("[]", "package.json: expected a JSON object"),
        ({"dependencies": ["mine"]}, "dependencies: expected an object"),
        ({"dependencies": {"mine": "file:../mine"}}, r"mine is a path \(file:../mine\)"),
    ],
    ids=["broken", "list", "list of dependencies", "path"],
)
def test_a_package_json_that_cannot_work_is_refused(
    build: Callable[..., BuildResult], package: dict[str, Any] | str, says: str
) -> None:
    with pytest.raises(BuildError, match=says):
        build("", package)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "languages.md"], ids=lambda page: page.name)
def test_what_the_pages_show_can_be_read(build: Callable[..., BuildResult], page: Path) -> None:
    blocks = [block.text for block in read_blocks(page) if block.kind == "js"]
    assert blocks

    for text in blocks:
        assert run_node(build(text), "console.log(typeof require('./handler.js').Handler)") == "function\n"


def test_a_node_that_is_not_there_is_said_with_those_that_are(build: Callable[..., BuildResult]) -> None:
    with pytest.raises(BuildError, match=r"Node\.js 97 is not on this machine; there: ") as refusal:
        build(version="97")

    assert all(one.version_text in str(refusal.value) for one in list_node())
