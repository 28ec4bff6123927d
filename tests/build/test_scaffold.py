from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dcf.build.project import load_project
from dcf.build.scaffold import init_function
from dcf.errors import ConfigError

COMMENTED = """\
# our functions
functions:
    first:   # the old one
        runtime: python
        handler: {dir: ./first}

# where it goes
dcf:
    gateway: "box:32222"   # in the cellar
"""


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_init_writes_a_function_that_loads(tmp_path: Path) -> None:
    written = init_function("echo", "python", tmp_path, gateway="10.0.0.1:32222")

    names = ["config.yaml", ".dockerignore", "Dockerfile", "src/handler.py", "src/requirements.txt"]
    assert written == [tmp_path / "echo" / name for name in names]
    assert everything(tmp_path) == {"echo", "echo/src", *(f"echo/{name}" for name in names)}
    project = load_project(tmp_path / "echo")
    assert project.gateway == "10.0.0.1:32222"
    assert project.function("echo").build_args["PYTHON_VERSION"] == f"3.{sys.version_info.minor}"
    dockerfile = (tmp_path / "echo/Dockerfile").read_text()
    assert f"ARG BASE_IMAGE=python:3.{sys.version_info.minor}-slim" in dockerfile
    assert "FROM ${BASE_IMAGE}" in dockerfile


def test_without_a_gateway_the_file_names_none(tmp_path: Path) -> None:
    init_function("echo", "python", tmp_path)

    assert load_project(tmp_path / "echo").gateway is None


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "echo/src").mkdir(parents=True)
    (tmp_path / "echo/src/handler.py").write_text("mine")
    before = everything(tmp_path)

    with pytest.raises(ConfigError, match=r"echo/src is there already, and nothing is overwritten"):
        init_function("echo", "python", tmp_path)

    assert everything(tmp_path) == before
    assert (tmp_path / "echo/src/handler.py").read_text() == "mine"


def test_an_empty_folder_of_that_name_is_used(tmp_path: Path) -> None:
    (tmp_path / "echo").mkdir()

    init_function("echo", "python", tmp_path)

    assert load_project(tmp_path / "echo").function("echo")


@pytest.mark.parametrize(
    ("name", "runtime", "gateway", "says"),
    [
        ("Echo", "python", None, "function name 'Echo' is not allowed: expected a lower-case letter"),
        ("../up", "python", None, "function name '../up' is not allowed"),
        ("echo", "cobol", None, "runtime 'cobol' is not known: expected one of python, go, node"),
        ("echo", "python", "nowhere", "gateway 'nowhere' is not allowed: expected host:port"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_made(
    tmp_path: Path, name: str, runtime: str, gateway: str | None, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        init_function(name, runtime, tmp_path, gateway=gateway)

    assert says in str(caught.value)
    assert everything(tmp_path) == set()


def test_a_function_joins_a_file_and_every_letter_of_it_stays(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(COMMENTED)
    file.chmod(0o640)

    written = init_function("second", "python", tmp_path, config_file=file, gateway="box:32222")

    text = file.read_text()
    head, tail = COMMENTED.split("\n# where")
    assert text.startswith(head)
    assert text.endswith("\n# where" + tail)
    assert file.stat().st_mode & 0o777 == 0o640
    assert written[0] == file
    assert not (tmp_path / "second/config.yaml").exists()
    project = load_project(file, check_files=False)
    assert list(project.functions) == ["first", "second"]
    assert project.function("second").source == tmp_path / "second/src"
    assert (project.function("second").source / "handler.py").is_file()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "functions: {}\n",
        "functions:\n",
        "dcf: {}  # none\n",
        "functions: {a: {runtime: python}}  # short\n",
        "functions:\n  a:\n    runtime: python",
        "{functions: {a: {runtime: python}}}\n",
        "dcf:\n  gateway: ''\nfunctions:\n  a:\n    runtime: python\n",
    ],
)
def test_a_function_joins_a_file_of_any_form(tmp_path: Path, text: str) -> None:
    file = tmp_path / "functions.yaml"
    file.write_text(text)

    init_function("b", "python", tmp_path, config_file=file, gateway="box:1")

    project = load_project(file, check_files=False)
    assert "b" in project.functions
    assert ("a" in project.functions) == ("a:" in text.replace("gateway", ""))
    assert project.gateway == "box:1"
    assert all(comment in file.read_text() for comment in ("# none", "# short", "# nothing yet") if comment in text)


def test_a_file_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    file = tmp_path / "new/functions.yaml"

    init_function("echo", "python", tmp_path, config_file=file)

    assert load_project(file).function("echo").source == tmp_path / "new/echo/src"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "functions:\n  echo:\n    runtime: python\n",
            ":2: functions.echo: is there already, and nothing is overwritten",
        ),
        ("functions: [\n", "this is no YAML"),
        ("functions: 5\n", ":1: functions: 5 is not allowed"),
        ("dcf:\n  gateway: other:1\n", ":2: dcf.gateway:"),
    ],
)
def test_a_file_that_cannot_be_joined_stays_as_it_is(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        init_function("echo", "python", tmp_path, config_file=file, gateway="box:1")

    assert says in str(caught.value)
    assert everything(tmp_path) == {"config.yaml"}
    assert file.read_text() == text


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"could not make .*file/echo"):
        init_function("echo", "python", tmp_path / "file")
