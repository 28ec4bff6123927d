from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcf.build.bundle import BuildResult, build_function, find_built, resolve_bundle
from dcf.build.interpreters import list_interpreters
from dcf.build.project import FunctionConfig
from dcf.errors import BuildError, ImageNotFoundError
from tests.build.conftest import LoadEcho
from tests.conftest import wait_until

Build = Callable[[FunctionConfig], BuildResult]
OLD = [f"3.{minor}" for minor in (6, 8, 13)]


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    return tmp_path / "bundles"


@pytest.fixture
def lines() -> list[str]:
    """What the builds of a test said."""
    return []


@pytest.fixture
def build(bundles: Path, lines: list[str]) -> Build:
    return lambda config: build_function(config, bundles, on_output=lines.append)


def run_python(result: BuildResult, code: str) -> str:
    """What `code` prints, run as a worker would be: with the bundle's Python in its sources."""
    assert result.manifest is not None
    assert result.folder is not None
    return subprocess.run(
        [*result.manifest.command, "-c", code], cwd=result.folder / "src", capture_output=True, text=True, check=True
    ).stdout


def put_wheel(folder: Path, name: str, text: str) -> None:
    """A wheel that pip installs without asking anybody."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_a_bundle_has_its_sources_and_a_python(echo: LoadEcho, build: Build, bundles: Path) -> None:
    result = build(echo())

    assert not result.reused
    assert result.manifest is not None
    assert result.reference == f"bundle:echo@{result.manifest.digest}"
    assert resolve_bundle(bundles, result.reference) == (result.manifest, result.folder)
    assert result.folder == bundles / "echo" / result.manifest.digest
    assert (result.manifest.handler_file, result.manifest.handler_name) == ("handler.py", "Handler")
    assert run_python(result, "import handler, sys; print(handler.Handler.__name__, sys.version.split()[0])") == (
        f"Handler {result.manifest.version}\n"
    )


def test_an_unchanged_function_is_built_in_a_moment(echo: LoadEcho, build: Build, lines: list[str]) -> None:
    first = build(echo())
    lines.clear()

    again = build(echo("desc: 'text that is not part of the bundle'"))

    assert again.reused
    assert again.reference == first.reference
    assert again.seconds < 1.0  # a fresh search for the interpreter included; measured 0.001
    assert lines == []


def test_an_empty_list_of_requirements_takes_no_pip(echo: LoadEcho, build: Build) -> None:
    result = build(echo(requirements="# nothing\n\n   # at all\n"))

    assert result.manifest is not None
    assert not list(Path(result.manifest.command[0]).parent.glob("pip*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "src/handler.py").write_text("class Handler: pass\n"),
        lambda folder: (folder / "src/model.bin").write_bytes(b"\0"),
        lambda folder: (folder / "src/handler.py").chmod(0o755),
        lambda folder: (folder / "src/empty").mkdir(),
    ],
    ids=["content", "file", "mode", "folder"],
)
def test_a_change_of_the_sources_makes_another_bundle_in_the_same_environment(
    echo: LoadEcho, build: Build, folder: Path, change: Callable[[Path], object]
) -> None:
    first = build(echo())

    change(folder)
    second = build(echo())

    assert not second.reused
    assert second.reference != first.reference
    assert first.manifest is not None
    assert second.manifest is not None
    assert second.manifest.command == first.manifest.command


def test_what_tools_leave_behind_changes_nothing(echo: LoadEcho, build: Build, folder: Path) -> None:
    first = build(echo())

    (folder / "src/__pycache__").mkdir()
    (folder / "src/__pycache__/handler.cpython-311.pyc").write_bytes(b"x")
    os.utime(folder / "src/handler.py", (1, 1))

    assert build(echo()).reference == first.reference


def test_links_are_followed_and_a_circle_or_a_dead_one_is_refused(echo: LoadEcho, build: Build, folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/weights").write_text("42")
    (folder / "src/models").symlink_to(folder / "elsewhere")
    result = build(echo())
    assert result.folder is not None
    assert (result.folder / "src/models/weights").read_text() == "42"
    assert not (result.folder / "src/models").is_symlink()

    (folder / "elsewhere/up").symlink_to(folder / "src")
    with pytest.raises(BuildError, match="leads to a folder that it is in itself"):
        build(echo())

    (folder / "elsewhere/up").unlink()
    (folder / "src/dead").symlink_to(folder / "nowhere")
    with pytest.raises(BuildError, match=r"src/dead: cannot be read: .*link to nowhere"):
        build(echo())


def test_what_is_no_file_is_refused(echo: LoadEcho, build: Build, folder: Path) -> None:
    os.mkfifo(folder / "src/pipe")

    with pytest.raises(BuildError, match="src/pipe: neither a file nor a folder"):
        build(echo())


def test_a_syntax_error_shows_file_line_and_text_and_makes_nothing(
    echo: LoadEcho, build: Build, folder: Path, bundles: Path
) -> None:
    (folder / "src/handler.py").write_text("class Handler:\n    def __call__(self req):\n        pass\n")

    with pytest.raises(BuildError) as caught:
        build(echo())

    first, second, *_ = str(caught.value).splitlines()
    assert first.startswith(f"{folder / 'src/handler.py'}:2: Python 3.")
    assert second == "    def __call__(self req):"
    assert not bundles.exists()


@pytest.mark.slow
@pytest.mark.parametrize("wanted", OLD)
def test_another_python_builds_and_runs_it(echo: LoadEcho, build: Build, wanted: str) -> None:
    there = [one.version_text for one in list_interpreters()]
    if not any(version.startswith(f"{wanted}.") for version in there):
        pytest.skip(f"Python {wanted} is not on this machine; there: {', '.join(there)}")

    result = build(echo(f"build_args: [PYTHON_VERSION={wanted}]"))

    assert run_python(result, "import sys; print('%d.%d' % sys.version_info[:2])") == f"{wanted}\n"


@pytest.mark.slow
def test_the_handler_is_read_by_the_python_that_will_run_it(echo: LoadEcho, build: Build, folder: Path) -> None:
    if not any(one.version[:2] == (3, 6) for one in list_interpreters()):
        pytest.skip("Python 3.6 is not on this machine")
    (folder / "src/handler.py").write_text("if (n := 1):\n    Handler = print\n")

    assert build(echo()).reference
    with pytest.raises(BuildError, match=r"handler\.py:1: Python 3\.6\.\d+ cannot read this: invalid syntax"):
        build(echo("build_args: [PYTHON_VERSION=3.6]"))


def test_a_python_that_is_not_there_is_said(echo: LoadEcho, build: Build) -> None:
    with pytest.raises(BuildError, match=r"Python 3\.99 is not on this machine; there: "):
        build(echo("build_args: [PYTHON_VERSION=3.99]"))


@pytest.mark.slow
def test_requirements_are_installed_and_shared_between_functions(
    echo: LoadEcho, build: Build, folder: Path, lines: list[str]
) -> None:
    put_wheel(folder / "src", "greeting", "TEXT = 'from a wheel'\n")
    # A file called like a module of Python must not come between pip and its work.
    (folder / "src/token.py").write_text("raise RuntimeError('not this one')\n")
    wanted = "./greeting-1.0-py3-none-any.whl  # ours\n"
    first = build(echo(requirements=wanted))
    assert run_python(first, "import sys; sys.path.pop(0); import greeting; print(greeting.TEXT)") == "from a wheel\n"
    assert any(line.startswith("Successfully installed greeting") for line in lines)

    lines.clear()
    other = build(echo("handler: {name: Other}", requirements=wanted))

    assert not other.reused
    assert other.reference != first.reference
    assert not any("install" in line for line in lines if line.startswith("==>"))


@pytest.mark.slow
def test_a_requirement_that_cannot_be_installed_is_said_and_leaves_nothing(
    echo: LoadEcho, build: Build, bundles: Path, lines: list[str]
) -> None:
    with pytest.raises(BuildError) as caught:
        build(echo(requirements="./missing-1.0-py3-none-any.whl\n"))

    text = str(caught.value)
    assert text.startswith("could not install ")
    assert "missing-1.0-py3-none-any.whl" in text.splitlines()[-1]
    assert any("missing-1.0" in line for line in lines)
    assert [path.name for path in (bundles / "venvs").iterdir() if path.is_dir()] == []
    assert [path.name for path in (bundles / "echo").iterdir()] == [".lock"]


def test_an_environment_without_its_marker_is_not_trusted(echo: LoadEcho, build: Build) -> None:
    first = build(echo())
    assert first.manifest is not None
    venv = Path(first.manifest.command[0]).parent.parent
    (venv / "dcf-complete.json").unlink()
    (venv / "bin/python").unlink()
    assert find_built(echo(), venv.parent.parent) is None

    second = build(echo())

    assert (second.reference, second.reused) == (first.reference, False)
    assert run_python(second, "print(1)") == "1\n"


def test_a_bundle_that_is_not_whole_is_made_again(echo: LoadEcho, build: Build, bundles: Path) -> None:
    first = build(echo())
    assert first.folder is not None
    (first.folder / "bundle.json").write_text("{")
    (bundles / "echo/.unfinished-x").mkdir()
    with pytest.raises(ImageNotFoundError, match="build the function again"):
        resolve_bundle(bundles, first.reference)

    second = build(echo())

    assert not second.reused
    assert resolve_bundle(bundles, first.reference) == (second.manifest, second.folder)
    assert not (bundles / "echo/.unfinished-x").exists()


def test_bundles_that_were_moved_are_built_again(echo: LoadEcho, build: Build, bundles: Path, tmp_path: Path) -> None:
    build(echo())
    shutil.move(bundles, tmp_path / "moved")

    result = build_function(echo(), tmp_path / "moved", on_output=print)

    assert not result.reused
    assert result.manifest is not None
    assert result.manifest.command[0].startswith(str(tmp_path / "moved"))
    assert run_python(result, "print(1)") == "1\n"


@pytest.mark.slow
def test_builds_of_the_same_at_once_make_it_once(echo: LoadEcho, build: Build, lines: list[str]) -> None:
    config = echo()
    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(lambda _: build(config), range(4)))

    assert len({result.reference for result in results}) == 1
    assert sum(not result.reused for result in results) == 1
    assert sum("make the virtual environment" in line for line in lines) == 1


BACKEND = """
import pathlib, time, zipfile
def build_wheel(folder, *_):
    here = pathlib.Path({folder!r})
    (here / "started").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    name = "slowly-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("slowly.py", "")
        wheel.writestr("slowly-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: slowly\\nVersion: 1.0\\n")
        wheel.writestr("slowly-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("slowly-1.0.dist-info/RECORD", "")
    return name
"""


@pytest.fixture
def slow_build(echo: LoadEcho, folder: Path, bundles: Path) -> Callable[[], subprocess.Popen[bytes]]:
    """Starts a dcf that builds, and returns when its pip is in the middle of its work."""
    package = folder / "src/slowly"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slowly"\nversion = "1.0"\n'
    )
    (package / "backend.py").write_text(BACKEND.format(folder=str(folder)))
    echo(requirements="./slowly\n")
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from dcf.build.bundle import build_function
        from dcf.build.project import load_project
        config = load_project(Path({str(folder)!r})).function("echo")
        build_function(config, Path({str(bundles)!r}), on_output=print)
        """
    )

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until((folder / "started").exists, within_s=60, what="pip's work")
        return process

    return start


@pytest.mark.slow
def test_a_build_that_is_interrupted_takes_its_pip_along(
    slow_build: Callable[[], subprocess.Popen[bytes]], bundles: Path
) -> None:
    process = slow_build()

    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)

    assert process.returncode != 0
    assert [path for path in (bundles / "venvs").iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_the_next_build_waits_for_the_pip_of_one_that_was_killed_and_trusts_none_of_it(
    slow_build: Callable[[], subprocess.Popen[bytes]], echo: LoadEcho, build: Build, lines: list[str], folder: Path
) -> None:
    process = slow_build()
    process.kill()
    process.wait(timeout=30)

    with ThreadPoolExecutor(max_workers=1) as pool:
        second = pool.submit(build, echo(requirements="./slowly\n"))
        try:
            waiting = "==> waiting for another build that makes the same virtual environment"
            wait_until(lambda: waiting in lines, within_s=30, what="the wait for the orphan")
        finally:
            (folder / "go").touch()
        result = second.result(timeout=90)

    assert not result.reused
    assert any(line.startswith("Successfully installed slowly") for line in lines)
    assert run_python(result, "import slowly") == ""


def test_skip_build_takes_the_image_as_it_stands(echo: LoadEcho, build: Build, bundles: Path) -> None:
    reference = build(echo()).reference

    left = build(echo("skip_build: true", f"image: {reference}"))
    foreign = build(echo("skip_build: true", "image: registry.example.org/echo:1"))

    assert (left.reference, left.reused, left.manifest) == (reference, True, resolve_bundle(bundles, reference)[0])
    assert (foreign.reference, foreign.folder) == ("registry.example.org/echo:1", None)
    with pytest.raises(BuildError, match="skip_build and names no image"):
        build(echo("skip_build: true"))
    with pytest.raises(BuildError, match="bundle:echo@000000000000 is not in"):
        build(echo("skip_build: true", "image: bundle:echo@000000000000"))


def test_what_does_not_act_on_this_backend_is_said(echo: LoadEcho, build: Build) -> None:
    config = echo("build_packages: [make]", "limits: {memory: 1G, gpu: 1}", "build_args: [CUDA_VERSION=9.0]")

    notices = "\n".join(build(config).notices)

    assert "build_packages (make)" in notices
    assert "limits (memory: 1G) are not enforced" in notices
    assert "CUDA_VERSION" in notices


def test_a_folder_that_cannot_take_bundles_is_named(echo: LoadEcho, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BuildError, match=r"could not build echo: .*file"):
        build_function(echo(), tmp_path / "file", on_output=print)
    with pytest.raises(BuildError, match="is inside the sources"):
        build_function(echo(), tmp_path / "src/bundles", on_output=print)


@pytest.mark.parametrize("reference", ["echo", "bundle:echo@xyz", "bundle:echo@000000000000"])
def test_a_reference_to_nothing_is_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(ImageNotFoundError, match=reference):
        resolve_bundle(tmp_path, reference)


def test_the_manifest_is_json_that_people_can_read(echo: LoadEcho, build: Build) -> None:
    result = build(echo())

    assert result.folder is not None
    assert json.loads((result.folder / "bundle.json").read_text())["function"] == "echo"
