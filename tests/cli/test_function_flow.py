"""From an empty folder to an answer, with the real command on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Shell, make_function

pytestmark = pytest.mark.slow

COLUMNS = ["Function", "Image", "Maintainer", "Invocations", "Replicas", "Status", "Description"]


@pytest.fixture(scope="module")
def echo(cluster: Shell) -> Shell:
    """A cluster with `echo` deployed."""
    cluster.ok("function", "init", "echo", "--runtime", "python")
    cluster.ok("function", "build", "-f", "echo/config.yaml")
    cluster.ok("function", "deploy", "-f", "echo/config.yaml")
    return cluster


def row_of(shell: Shell, name: str) -> dict[str, object]:
    functions = json.loads(shell.ok("function", "list", "--output", "json"))
    return next(function for function in functions if function["name"] == name)


def test_init_says_what_it_wrote(shell: Shell) -> None:
    said = shell.ok("function", "init", "echo", "--runtime", "python", "--gateway", "gateway.example:32222")

    for path in ("echo/config.yaml", "echo/Dockerfile", "echo/src/handler.py", "echo/src/requirements.txt"):
        assert path in said
        assert (shell.folder / path).is_file()
    assert "gateway.example:32222" in (shell.folder / "echo/config.yaml").read_text()
    assert "there already" in shell.fails("function", "init", "echo")


@pytest.mark.parametrize("name", ["Echo", "1st", "has blank"])
def test_init_refuses_a_bad_name(shell: Shell, name: str) -> None:
    assert "lower-case letter" in shell.fails("function", "init", name)
    assert list(shell.folder.iterdir()) == []


def test_build_twice_is_unchanged_and_found_by_name(shell: Shell) -> None:
    shell.ok("function", "init", "echo")

    first = json.loads(shell.ok("function", "build", "echo", "--output", "json"))[0]
    second = json.loads(shell.ok("function", "build", "-f", "echo/config.yaml", "--output", "json"))[0]

    assert (first["reused"], second["reused"]) == (False, True)
    assert first["image"] == second["image"]


def test_run_answers_without_a_cluster(shell: Shell) -> None:
    shell.ok("function", "init", "echo")
    shell.ok("function", "build", "-f", "echo/config.yaml")

    assert shell.ok("function", "run", "echo", stdin=b"Hello\n") == "Hello\n"
    assert shell.dcf("function", "run", "echo", stdin=b"\x00\xff").stdout == b"\x00\xff"


def test_run_and_deploy_want_a_build_of_what_is_there(cluster: Shell) -> None:
    cluster.ok("function", "init", "fresh")

    for verb in ("run", "deploy"):
        error = cluster.fails("function", verb, "fresh")
        assert "has not been built" in error
        assert "dcf function build -f fresh/config.yaml fresh" in error

    cluster.ok("function", "build", "fresh")
    (cluster.folder / "fresh/src/handler.py").write_text("class Handler: pass\n")

    for verb in ("run", "deploy"):
        assert "changed since the last build" in cluster.fails("function", verb, "fresh")


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("class Handler:\n    def __init__(self):\n        raise RuntimeError('no model here')\n", "no model here"),
        ("import nothing_like_it\n", "nothing_like_it"),
        ("class Other:\n    pass\n", "Handler"),
        ("class Handler:\n    def __call__(self, req):\n        raise ValueError('bad picture')\n", "bad picture"),
        ("import os\nclass Handler:\n    def __call__(self, req):\n        os._exit(3)\n", "exit"),
        ("class Handler:\n    def __call__(self, req):\n        return object()\n", "object"),
    ],
    ids=["constructor", "import", "no-handler", "call", "exit", "result"],
)
def test_run_shows_what_is_wrong_and_ends_with_1(shell: Shell, handler: str, said: str) -> None:
    make_function(shell, "broken", handler)

    error = shell.fails("function", "run", "broken", stdin=b"x")

    assert said in error.splitlines()[-1] or said in error
    assert no_watcher_of(shell)


def test_run_shows_the_traceback_and_the_output_on_stderr(shell: Shell) -> None:
    make_function(shell, "loud", "print('loading')\ndef Handler(req):\n    print('called')\n    return 1 / 0\n")

    done = shell.dcf("function", "run", "loud", stdin=b"x")

    assert done.returncode == 1
    assert done.stdout == b""
    error = done.stderr.decode()
    assert "loading" in error
    assert "called" in error
    assert "Traceback" in error
    assert "ZeroDivisionError" in error.splitlines()[-1]


def test_run_gives_up_at_the_start_timeout(shell: Shell) -> None:
    make_function(shell, "endless", "import time\nwhile True:\n    time.sleep(1)\n", start_timeout="1s")

    begun = time.monotonic()
    error = shell.fails("function", "run", "endless", stdin=b"x")

    assert "1 s" in error
    assert time.monotonic() - begun < 20
    assert no_watcher_of(shell)


def test_ctrl_c_ends_run_and_leaves_nothing_behind(shell: Shell) -> None:
    make_function(shell, "slow", "import time\ndef Handler(req):\n    print('in')\n    time.sleep(60)\n")
    process = shell.start("function", "run", "slow", "--data", "x")
    assert process.stderr is not None
    assert process.stderr.readline().strip() == b"in"

    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)

    assert process.returncode == 130
    assert b"Traceback" not in error
    assert no_watcher_of(shell)


def no_watcher_of(shell: Shell) -> bool:
    """Whether no process of this test's bundles is left."""
    mark = str(shell.folder / "bundles").encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environ = path.read_bytes()
        except OSError:
            continue
        if b"DCF_SOURCE=" + mark in environ:
            return False
    return True


def test_invoke_prints_the_answer_as_it_is(echo: Shell) -> None:
    assert echo.ok("function", "invoke", "echo", stdin=b"Hello\n") == "Hello\n"
    assert echo.ok("function", "call", "echo", "--data", "Hello") == "Hello"
    assert echo.dcf("function", "invoke", "echo", stdin=bytes(range(256))).stdout == bytes(range(256))

    (echo.folder / "input").write_bytes(b"from a file")
    assert echo.ok("function", "invoke", "echo", "--file", "input") == "from a file"
    assert "cannot be read" in echo.fails("function", "invoke", "echo", "--file", "nowhere")


def test_list_has_the_promised_columns_and_exact_numbers(echo: Shell) -> None:
    before = row_of(echo, "echo")["invocationCount"]
    assert isinstance(before, int)
    for _ in range(3):
        echo.ok("function", "invoke", "echo", stdin=b"x")

    assert row_of(echo, "echo")["invocationCount"] == before + 3
    header, *rows = echo.ok("function", "list").splitlines()
    assert header.split() == COLUMNS
    cells = next(row.split() for row in rows if row.startswith("echo "))
    assert cells[1].startswith("bundle:echo@")
    assert cells[2:5] == [str(before + 3), "1/1", "Ready"]


def test_headers_reach_the_handler(cluster: Shell) -> None:
    make_function(cluster, "headers", "def Handler(req):\n    return req.metadata['headers'].get('X-Colour', 'none')\n")
    cluster.ok("function", "deploy", "headers")

    assert cluster.ok("function", "invoke", "headers", "-d", "x", "-H", "X-Colour: blue") == "blue"
    assert "NAME:VALUE" in cluster.fails("function", "invoke", "headers", "-d", "x", "-H", "blue")


def test_error_of_a_handler_names_code_and_message(cluster: Shell) -> None:
    make_function(cluster, "raiser", "def Handler(req):\n    raise ValueError('bad picture')\n")
    cluster.ok("function", "deploy", "raiser")

    error = cluster.fails("function", "invoke", "raiser", "-d", "x")

    assert error.startswith("dcf: handler_error: ")
    assert "bad picture" in error
    assert "Traceback" not in error


def test_timeout_of_invoke_is_a_deadline(cluster: Shell) -> None:
    make_function(cluster, "sleeper", "import time\ndef Handler(req):\n    time.sleep(3)\n", kill_after="5s")
    cluster.ok("function", "deploy", "sleeper")

    assert "deadline_exceeded" in cluster.fails("function", "invoke", "sleeper", "-d", "x", "--timeout", "200ms")


def test_deploy_of_what_cannot_start_says_why(cluster: Shell) -> None:
    make_function(cluster, "hopeless", "print('here I go')\nraise RuntimeError('no weights file')\n")

    error = cluster.fails("function", "deploy", "hopeless")

    assert "no weights file" in error
    assert "here I go" in error
    cluster.ok("function", "delete", "hopeless")


def test_log_shows_what_was_printed(cluster: Shell) -> None:
    make_function(cluster, "talker", "def Handler(req):\n    print('said', req.text)\n    return 'ok'\n")
    cluster.ok("function", "deploy", "talker")
    for word in ("one", "two", "three"):
        cluster.ok("function", "invoke", "talker", "-d", word)

    lines = cluster.ok("function", "log", "talker").splitlines()
    assert [line.split("| ")[1] for line in lines if "said" in line] == ["said one", "said two", "said three"]
    assert cluster.ok("function", "log", "talker", "--tail", "1").rstrip().endswith("said three")
    assert json.loads(cluster.ok("function", "log", "talker", "-n", "1", "-o", "json"))["text"] == "said three"
    assert cluster.ok("function", "log", "talker", "--since", "0.001s") == ""


def test_log_follows_until_ctrl_c(cluster: Shell) -> None:
    make_function(cluster, "live", "def Handler(req):\n    print('said', req.text)\n    return 'ok'\n")
    cluster.ok("function", "deploy", "live")
    process = cluster.start("function", "log", "live", "--follow")
    assert process.stdout is not None
    seen = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if b"said" in line:
                seen.set()
                return

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 30
    while not seen.is_set() and time.monotonic() < deadline:
        cluster.ok("function", "invoke", "live", "-d", "hello")
    os.kill(process.pid, signal.SIGINT)
    reader.join(30)
    _, error = process.communicate(timeout=30)

    assert seen.is_set()
    assert process.returncode == 130
    assert error == b""


def test_scale_and_info(cluster: Shell) -> None:
    make_function(cluster, "wide", "def Handler(req):\n    return 'ok'\n")
    cluster.ok("function", "deploy", "wide")

    cluster.ok("function", "scale", "wide", "2")
    deadline = time.monotonic() + 30
    while row_of(cluster, "wide")["availableReplicas"] != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    facts = json.loads(cluster.ok("function", "info", "wide", "-o", "json"))
    assert facts["availableReplicas"] == 2
    assert "wide-g1-" in cluster.ok("function", "describe", "wide")

    cluster.ok("function", "scale", "wide", "--auto")
    assert row_of(cluster, "wide")["replicas"] == 1
    assert "--auto, or --min" in cluster.fails("function", "scale", "wide", code=2)
    assert "--auto, or --min" in cluster.fails("function", "scale", "wide", "2", "--auto", code=2)


def test_unknown_function_says_what_comes_near(echo: Shell) -> None:
    for args in (("invoke", "ehco"), ("delete", "ehco"), ("info", "ehco"), ("log", "ehco"), ("scale", "ehco", "1")):
        error = echo.fails("function", *args)
        assert "ehco" in error
        assert "did you mean" in error
        assert "echo" in error


def test_delete_removes_it(cluster: Shell) -> None:
    make_function(cluster, "gone", "def Handler(req):\n    return 'ok'\n")
    cluster.ok("function", "deploy", "gone")

    cluster.ok("function", "delete", "gone")

    assert "gone" in cluster.fails("function", "invoke", "gone", "-d", "x")
    assert "gone" in cluster.fails("function", "delete", "gone")


def test_skip_build_takes_the_image_that_is_named(echo: Shell) -> None:
    image = row_of(echo, "echo")["image"]
    echo.ok("function", "init", "copy")
    config = echo.folder / "copy" / "config.yaml"
    text = config.read_text().replace("image: copy", f"image: {image}")
    config.write_text(text.replace("skip_build: false", "skip_build: true"))

    echo.ok("function", "deploy", "-f", "copy/config.yaml")

    assert row_of(echo, "copy")["image"] == image


def test_status_tells_address_and_functions(echo: Shell) -> None:
    facts = json.loads(echo.ok("status", "--output", "json"))

    assert facts["running"] is True
    assert facts["address"] == echo.more["ADDRESS"]
    assert facts["functions"] >= 1
    assert echo.more["ADDRESS"] in echo.ok("status")


def test_dcf_cli_is_the_same_program(echo: Shell) -> None:
    program = Path(sys.executable).with_name("dcf-cli")
    if not program.exists():
        pytest.skip("dcf is not installed in this environment, only on its path")

    done = subprocess.run(
        [program, "function", "list"], cwd=echo.folder, env=echo.environ, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:7] == COLUMNS
