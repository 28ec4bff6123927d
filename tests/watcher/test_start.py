"""A handler that cannot be loaded ends the watcher with the cause as the last line of its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watcher.harness import eventually, interpreters, run_watcher

VERSIONS = interpreters()

FAILURES = {
    "constructor": (
        "class Handler:\n def __init__(self):\n  print('loading')\n  raise ValueError('no weights\\nhere')",
        "dcf: ValueError: no weights here while the handler was loaded",
    ),
    "import": ("import not_there_at_all", "No module named 'not_there_at_all'"),
    "syntax": ("def Handler(req)\n    return 1", "dcf: SyntaxError:"),
    "exit": ("import sys\nsys.exit(4)", "dcf: sys.exit(4) was called while the handler was loaded"),
    "os_exit": ("import os\nos._exit(5)", "dcf: the worker exited with status 5 while the handler was loaded"),
    "crash": ("import os\nos.abort()", "dcf: the worker was ended by SIGABRT while the handler was loaded"),
    "missing_class": ("class Handle:\n    pass", "dcf: handler.py has no Handler; it has: Handle"),
    "no_call": (
        "class Handler:\n    pass",
        "dcf: class Handler in handler.py has neither __call__(self, req) nor stream(self, requests)",
    ),
    "not_callable": ("Handler = 3", "dcf: Handler in handler.py is neither a class nor a function"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_load_failure_names_its_cause(tmp_path: Path, case: str) -> None:
    handler, cause = FAILURES[case]

    async with run_watcher(tmp_path, handler) as replica:
        assert await replica.exit_status() == 1

    lines = replica.log_file()
    assert lines[-1][0] == "dcf"
    assert cause in lines[-1][1]
    assert lines[-1][1].startswith("dcf: ")
    if case == "constructor":
        assert ("stdout", "loading") in lines
        assert ("stderr", "ValueError: no weights") in lines


async def test_missing_file_interpreter_and_folder_are_named(tmp_path: Path) -> None:
    for options, cause in (
        ({"handler": None}, "the handler file handler.py is not there"),
        ({"handler": "", "python": "/no/such/python"}, "the worker cannot be started with /no/such/python"),
        ({"handler": "", "command": (sys.executable, "-c", "pass"), "runtime": "other"}, "exited with status 0"),
    ):
        folder = tmp_path / str(len(cause))
        folder.mkdir()

        async with run_watcher(folder, **options) as replica:  # type: ignore[arg-type]
            assert await replica.exit_status() == 1

        assert cause in replica.log_file()[-1][1]


@pytest.mark.parametrize("version", ["3.6", "3.13"])
async def test_load_failure_is_explained_by_every_python(tmp_path: Path, version: str) -> None:
    if version not in VERSIONS:
        pytest.skip(f"this machine has no Python {version}")

    async with run_watcher(tmp_path, "raise KeyError('weights')", python=VERSIONS[version]) as replica:
        assert await replica.exit_status() == 1

    assert replica.log_file()[-1] == ("dcf", "dcf: KeyError: 'weights' while the handler was loaded")


async def test_endless_constructor_ends_at_the_start_timeout_and_says_failed(tmp_path: Path) -> None:
    handler = """
        class Handler:
            def __init__(self):
                while True:
                    pass
    """

    async with run_watcher(tmp_path, handler, start_timeout_s=1.5) as replica:
        report = await replica.until_state("failed")
        status = await replica.exit_status()

    assert "1.5 s (start_timeout)" in report.reason
    assert status == 1
    assert "1.5 s (start_timeout)" in replica.log_file()[-1][1]


async def test_sigterm_while_the_constructor_runs_ends_at_once(tmp_path: Path) -> None:
    handler = """
        import time
        print("begun")
        time.sleep(600)
    """

    async with run_watcher(tmp_path, handler) as replica:
        await replica.until_logged("begun")
        replica.process.send_signal(signal.SIGTERM)
        assert await replica.exit_status() == 0


@pytest.mark.parametrize(
    ("hello", "cause"),
    [
        ('{"protocol": 99}', "speaks protocol 99, expected 1"),
        ("[1]", "JSON is a list"),
        ("not json", "JSON cannot be read"),
    ],
)
async def test_worker_that_breaks_the_handshake_is_ended(tmp_path: Path, hello: str, cause: str) -> None:
    program = f"""
        import socket, struct, sys
        data = socket.socket(fileno=int(sys.argv[-2]))
        text = {hello!r}.encode()
        data.sendall(struct.pack("!IIBB", len(text), 0, 1, 0) + text)
        data.recv(100000)
        data.recv(1)
    """

    async with run_watcher(
        tmp_path, program, file="odd.py", runtime="other", command=(sys.executable, "odd.py")
    ) as replica:
        assert await replica.exit_status() == 1

    assert cause in replica.log_file()[-1][1]
    assert "broke the protocol" in replica.log_file()[-1][1]


def test_bad_settings_are_refused_with_one_line(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DCF_")}
    good = {
        "DCF_FUNCTION": "echo", "DCF_REPLICA": "r", "DCF_LISTEN": f"unix:{tmp_path}/w", "DCF_RUNTIME": "python",
        "DCF_WORKER_COMMAND": '["python"]', "DCF_SOURCE": str(tmp_path), "DCF_HANDLER_FILE": "h",
        "DCF_HANDLER_NAME": "H",
    }  # fmt: skip
    for bad in (
        {"DCF_WORKERS": "0"}, {"DCF_WORKER_COMMAND": "{"}, {"DCF_TIMEOUT_S": "nan"}, {"DCF_NONSENSE": "1"},
        {"DCF_LOG_FILE": "/no/such/folder/log"}, {"DCF_LOG_LEVEL": "loud"}, {"DCF_LISTEN": "unix:/no/such/folder/w"},
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "dcf.watcher"], env=environ | good | bad, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1, bad
        assert next(iter(bad)) in done.stderr
        assert "Traceback" not in done.stderr


def test_watcher_imports_nothing_heavy() -> None:
    code = (
        "import sys, dcf.watcher.main; "
        "print([name for name in ('aiohttp', 'redis', 'docker', 'typer', 'rich', 'dcf.store') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
async def test_a_watcher_that_nobody_can_reach_any_more_ends(tmp_path: Path) -> None:
    """Somebody removed the state folder of a running cluster: no scheduler will ever find this replica again."""
    async with run_watcher(tmp_path, "def Handler(req):\n    return req.input") as replica:
        await replica.until_state("ready")
        Path(replica.address.removeprefix("unix:")).unlink()

        assert await replica.exit_status() == 0


async def test_every_worker_has_its_sockets_under_low_numbers(tmp_path: Path) -> None:
    """Node.js can mark only such ones close-on-exec; a second worker's are no higher than the first one's."""
    handler = "import sys, os, time\ndef Handler(req):\n    time.sleep(0.2)\n    return [os.getpid(), *sys.argv[-2:]]\n"

    async with run_watcher(tmp_path, handler, workers=3) as replica, replica.attach() as gateway:
        await eventually(lambda: gateway.states and gateway.states[-1]["concurrency"] == 3, "three workers")
        answers = await asyncio.gather(*(gateway.call(b"") for _ in range(3)))

    pids = {pid for pid, _, _ in (json.loads(answer.body) for answer in answers)}
    assert len(pids) == 3
    assert all(3 <= int(number) < 16 for answer in answers for number in json.loads(answer.body)[1:])
