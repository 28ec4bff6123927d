"""Put load on one URL and say what came back: wrk, or our own where it is not.

In:   a URL, a number of keep-alive connections, seconds. Out: a Load.
One thread, POST of BODY; a connection sends its next request when the answer
to the one before is there.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

BODY = b"x" * 100
"""The same as in echo.lua."""
SCRIPT = Path(__file__).with_name("echo.lua")
INSTALL_WRK = "apt install wrk (Debian, Ubuntu), brew install wrk (macOS)"


class LoadFailedError(Exception):
    """The load generator itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run; `bad_answers` are statuses outside 2xx (wrk: 400 and up), `socket_errors` include time-outs."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    bad_answers: int
    socket_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenerator:
    """What makes the load, and its name for the report."""

    name: str
    is_wrk: bool
    run: Callable[[str, int, int], Load]


def choose() -> LoadGenerator:
    """Wrk where it is on PATH, else ours."""
    if shutil.which("wrk"):
        # `wrk -v` ends with status 1.
        words = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()
        return LoadGenerator(name=f"wrk {words[1] if len(words) > 1 else ''}".strip(), is_wrk=True, run=_run_wrk)
    return LoadGenerator(name="FALLBACK without wrk: bench/loadgen.py, in Python", is_wrk=False, run=_run_own)


def _run_wrk(url: str, connections: int, seconds: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", str(SCRIPT), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return Load(**json.loads(line.removeprefix("RESULT ")))
    raise LoadFailedError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")


def _run_own(url: str, connections: int, seconds: int) -> Load:
    return uvloop.run(_load(url, connections, seconds))


async def _load(url: str, connections: int, seconds: int) -> Load:
    parts = urlsplit(url)
    run = _Run(
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n".encode()
        + BODY
    )
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    transports = []
    for _ in range(connections):
        try:
            transport, _ = await loop.create_connection(
                lambda: _Connection(run), parts.hostname or "", parts.port or 80
            )
            transports.append(transport)
        except OSError:
            run.socket_errors += 1
    await asyncio.sleep(began + seconds - time.perf_counter())
    duration_s = time.perf_counter() - began
    run.open = False
    for transport in transports:
        transport.abort()
    latencies = sorted(run.latencies_s) or [0.0]
    return Load(
        requests=len(run.latencies_s),
        duration_us=round(duration_s * 1e6),
        p50_us=round(latencies[len(latencies) // 2] * 1e6),
        p99_us=round(latencies[len(latencies) * 99 // 100] * 1e6),
        bad_answers=run.bad_answers,
        socket_errors=run.socket_errors,
    )


class _Run:
    """What the connections of one run share."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.open = True
        self.latencies_s: list[float] = []
        self.bad_answers = 0
        self.socket_errors = 0


class _Connection(asyncio.Protocol):
    """One keep-alive connection. Understands answers with a Content-Length, which both sides send."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        head_end = data.find(b"\r\n\r\n") + 4
        if head_end >= 4:
            _, found, rest = data[:head_end].lower().partition(b"\r\ncontent-length:")
            if not found:
                self._transport.close()  # counted as a socket error
                return
            end = head_end + int(rest[: rest.index(b"\r")])
            if len(data) >= end:
                self._run.latencies_s.append(time.perf_counter() - self._sent_at)
                if data[9:10] != b"2" or data[head_end:end] != BODY:
                    self._run.bad_answers += 1
                self._buffer = b""
                if self._run.open:
                    self._send()
                return
        self._buffer = data

    def connection_lost(self, error: Exception | None) -> None:
        if self._run.open:
            self._run.socket_errors += 1
