"""`up`, `down`, `status`: every way that a start can go."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Shell, free_port

pytestmark = pytest.mark.slow


def test_second_up_on_the_same_state_is_refused(cluster: Shell) -> None:
    error = cluster.fails("up", "--detach", "--listen", f"127.0.0.1:{free_port()}")

    assert "running already" in error
    cluster.ok("status")


def test_taken_port_is_named_and_leaves_nothing(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        error = shell.fails("up", "--detach", "--listen", f"127.0.0.1:{port}")

    assert str(port) in error
    shell.fails("status")


def test_foreground_up_fails_in_the_same_words(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert str(taken.getsockname()[1]) in shell.fails("up", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")


def test_folder_that_cannot_be_written_is_named(shell: Shell) -> None:
    # The kernel's own folder, which root cannot write either: the tests run as anybody.
    assert "/sys/dcf-state" in shell.fails("up", "--detach", "--state", "/sys/dcf-state")


def test_state_that_is_a_file_is_named(shell: Shell) -> None:
    file = shell.folder / "file"
    file.write_text("")

    assert str(file) in shell.fails("up", "--detach", "--state", str(file))


def test_address_for_others_wants_a_token(shell: Shell) -> None:
    assert "token" in shell.fails("up", "--detach", "--listen", f"0.0.0.0:{free_port()}")


@pytest.mark.parametrize("args", [("--listen", "nowhere"), ("--redis", "unix:///nowhere.sock")], ids=" ".join)
def test_wrong_setting_is_refused(shell: Shell, args: tuple[str, str]) -> None:
    somewhere = ("--listen", f"127.0.0.1:{free_port()}")
    assert args[1].removeprefix("unix://") in shell.fails("up", "--detach", *somewhere, *args)


def test_foreground_up_stops_in_order_at_ctrl_c(shell: Shell) -> None:
    process = shell.start("up", "--listen", f"127.0.0.1:{free_port()}")
    assert process.stdout is not None
    try:
        assert b"ready" in process.stdout.readline()

        os.kill(process.pid, signal.SIGINT)
        rest, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0
    assert b"Stopped." in rest
    assert b"Traceback" not in error
    shell.fails("status")


def processes_of(folder: Path) -> list[int]:
    """Processes that were started with this test's state folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


@pytest.mark.timeout(300)  # it installs scikit-learn, beside everything else that the tests do
def test_demo_prints_the_digit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shell = Shell(tmp_path)

    done = subprocess.run(
        [*demo_command()], cwd=tmp_path, env=shell.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, timeout=280
    )

    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    assert "the picture shows a 7" in text
    assert "$ dcf up --detach" in text
    for said in ("Hello from run", "Hello from invoke", "Hello from HTTP", "Hello from gRPC", "Hello from Python"):
        assert text.count(said) >= 2, said
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def demo_command() -> list[str]:
    import sys

    return [sys.executable, "-m", "dcf", "demo"]
