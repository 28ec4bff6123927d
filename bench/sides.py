"""Start and stop what is measured: a DCF cluster, and FastAPI by uvicorn.

In:   a folder for everything that is written. Out: a Side that answers.
Raises SideFailedError with the last words of what failed; leaves no process.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

START_S = 60.0
STOP_S = 90.0
BENCH = Path(__file__).parent


class SideFailedError(Exception):
    """A side did not start, or answers wrongly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One contestant."""

    name: str
    url: str
    pid: int
    """All its processes are this one and its descendants."""


@contextmanager
def open_dcf(
    folder: Path, *, runtime: str = "python", name: str = "dcf", handler: str | None = None, config: str = ""
) -> Iterator[Side]:
    """`dcf up` with default settings, and the function that `init` writes, deployed.

    Args:
        runtime: of the function.
        name: of the side.
        handler: another source for it.
        config: lines to add to its part of config.yaml, indented by four blanks.
    """
    work = folder / "work"
    work.mkdir(parents=True)
    environ = _environ() | {"DCF_BUNDLES": str(folder / "bundles"), "DCF_CONFIG": str(folder / "config.yaml")}
    state = ("--state", str(folder / "state"))

    def dcf(*words: str) -> str:
        # -P and another folder: the installed package, not the tree that the bench stands in.
        command = [sys.executable, "-P", "-m", "dcf", *words]
        done = subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SideFailedError(f"`dcf {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    try:
        dcf("up", "--detach", *state, "--listen", "127.0.0.1:0")
        facts = json.loads(dcf("status", *state, "--output", "json"))
        dcf("function", "init", "echo", "--runtime", runtime, "--gateway", facts["address"])
        if handler is not None:
            (work / "echo" / "src" / "handler.py").write_text(handler)
        path = work / "echo" / "config.yaml"
        path.write_text(path.read_text().replace("dcf:\n", f"{config}dcf:\n", 1))
        dcf("function", "build", "-f", "echo/config.yaml")
        dcf("function", "deploy", "-f", "echo/config.yaml")
        side = Side(name=name, url=f"http://{facts['address']}/function/echo", pid=facts["pid"])
        if handler is None:
            _wait_for_echo(side)
        yield side
    except BaseException:
        with suppress(SideFailedError):  # what failed first is what counts
            dcf("down", *state)
        raise
    dcf("down", *state)


@contextmanager
def open_fastapi(folder: Path) -> Iterator[Side]:
    """`uvicorn fastapi_echo:app`: one worker and its defaults, but no line of log for each request."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "fastapi_echo:app", "--app-dir", str(BENCH)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-access-log"]
    output = folder / "uvicorn.log"
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=_environ(), stdout=file, stderr=file)
    try:
        side = Side(name="fastapi", url=f"http://127.0.0.1:{port}/echo", pid=process.pid)
        try:
            _wait_for_echo(side, process)
        except SideFailedError as error:
            raise SideFailedError(f"{error}\n{output.read_text(errors='replace').strip()}") from error
        yield side
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_echo(side: Side) -> None:
    """Raise SideFailedError unless `side` answers some bodies with the same bytes."""
    for body in (b"x" * 100, bytes(range(256)), b""):
        status, answer = _post(side.url, body)
        if status != 200 or answer != body:
            raise SideFailedError(
                f"{side.name} answered a body of {len(body)} bytes with status {status} and {answer[:200]!r}"
            )


def _wait_for_echo(side: Side, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            _post(side.url, b"x")
            break
        except OSError as error:
            if process and process.poll() is not None:
                raise SideFailedError(f"{side.name} ended with {process.returncode}") from error
            if time.monotonic() > end:
                raise SideFailedError(f"{side.name} did not answer within {START_S:g} s: {error}") from error
            time.sleep(0.05)
    check_echo(side)


def _post(url: str, body: bytes) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=START_S)
    try:
        connection.request("POST", parts.path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _environ() -> dict[str, str]:
    """Ours without what would change a default of either side."""
    ours = ("DCF_", "UVICORN_", "WEB_CONCURRENCY", "PYTHONPATH", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
